"""Metrics, one file a family: of one arm, and the difference of two arms under drawn groups."""
