"""Amounts as people read them, for the command line and for reports."""

from __future__ import annotations

from decimal import Decimal


def money(amount: Decimal) -> str:
    """Return *amount* in USD: cents, and tenths of a cent where there are any."""
    return f"${amount:,.3f}".removesuffix("0")


def duration(seconds: float) -> str:
    """Return *seconds* as people say it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
