"""Moments and stretches of time, as they are typed at a command."""

from __future__ import annotations

import re
import time
from datetime import datetime

from voicespan.local.turn import NS_PER_S

_UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_AGO = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_SPELLINGS = "2h (ago), 2026-11-20T14:00 or a Unix time"


def moment_ns(text: str) -> int:
    """Return the Unix time in nanoseconds of so long ago (`90s`, `30m`, `2h`, `7d`), an ISO date, or Unix seconds.

    A date without an offset is one of this machine's time zone.

    Raises:
        ValueError: it is none of these.

    """
    ago = _AGO.fullmatch(text)
    if ago:
        return time.time_ns() - round(float(ago[1]) * _UNITS_S[ago[2]] * NS_PER_S)
    try:
        return round(float(text) * NS_PER_S)
    except (ValueError, OverflowError):
        pass
    try:
        return round(datetime.fromisoformat(text).timestamp() * NS_PER_S)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is no time: write {_SPELLINGS}") from None


def stretch_ns(text: str) -> tuple[int | None, int | None]:
    """Return beginning and end of `SINCE..UNTIL`, each None where it is left out.

    Raises:
        ValueError: it is no stretch of time, or ends before it begins.

    """
    since, dots, until = text.partition("..")
    if not dots:
        raise ValueError(f"{text!r} is no stretch of time: write SINCE..UNTIL, for example 2h..1h")
    begin, end = (moment_ns(each) if each else None for each in (since, until))
    if begin is not None and end is not None and begin >= end:
        raise ValueError(f"{text!r} ends before it begins")
    return begin, end
