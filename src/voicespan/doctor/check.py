"""One line of the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """What was looked at, and what came of it; `remedy` says what to do about a warning or failure."""

    name: str
    verdict: Verdict
    message: str
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is to be looked at beyond the environment: addresses of programs, and modules of the service."""

    modules: tuple[str, ...] = ()
    viewer: str | None = None
    tempo: str | None = None
    prometheus: str | None = None
    grafana: str | None = None
    service: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    """What each of these addresses is asked with."""
    wait_s: float = 60.0
    """How long what was sent may take until it is seen."""
