"""Blinded sheets for domain experts: drawn, written, read back, scored (docs/review.md)."""
