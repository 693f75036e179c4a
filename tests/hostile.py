"""Hostile and malformed files, built by code: each with the reason or the message that reading it must end in.

Every file holds the word `secret`, which must stand in no message.
"""

from hostile_files import LIMITS, Case
from hostile_tables import SQL_CASES, TABLE_CASES
from hostile_texts import TEXT_CASES

__all__ = ["CASES", "LIMITS", "Case"]

CASES = [*TEXT_CASES, *TABLE_CASES, *SQL_CASES]
