"""Who may call: a token for each call, one at a time, and the caller's side of asking for it."""

from __future__ import annotations

import secrets
import time

import httpx
from fastapi import APIRouter, Response
from opentelemetry import trace

from voicespan import metrics
from voicespan.names import SPAN_TOKEN_MINT

_AT_LEAST_S = 0.2
"""Between two tokens: whoever asks more often is refused."""
_MOST_TOKENS = 1000

router = APIRouter()
_tracer = trace.get_tracer("voicespan.demo.admission")


class Tokens:
    """The tokens that were given away and not used yet."""

    def __init__(self) -> None:
        self._valid: set[str] = set()
        self._next_s = 0.0

    def mint(self) -> str | None:
        """Return a token; None when the last one was made a moment ago."""
        now_s = time.monotonic()
        if now_s < self._next_s or len(self._valid) >= _MOST_TOKENS:
            return None
        self._next_s = now_s + _AT_LEAST_S
        with _tracer.start_as_current_span(SPAN_TOKEN_MINT):
            token = secrets.token_urlsafe()
            self._valid.add(token)
        return token

    def take(self, token: str) -> bool:
        """Whether the token is valid; it is not a second time."""
        known = token in self._valid
        self._valid.discard(token)
        return known


tokens = Tokens()


@router.post("/token")
async def mint(response: Response) -> dict[str, str]:
    """Give a token for one call, or refuse with 429."""
    token = tokens.mint()
    if token is None:
        metrics.rate_limited("/token")
        response.status_code = 429
        response.headers["Retry-After"] = "1"
        return {"error": "too many requests"}
    return {"token": token}


async def ask(agent: str) -> str:
    """Ask the agent at this HTTP address for a token, twice in a row, as impatient callers do, and return it.

    Raises:
        ConnectionError: it gives none.

    """
    async with httpx.AsyncClient(timeout=10) as client:
        answers = [await client.post(f"{agent}/token") for _ in range(2)]
    given = [answer.json()["token"] for answer in answers if answer.status_code == httpx.codes.OK]
    if not given:
        raise ConnectionError(f"no token: status {answers[0].status_code}")
    return str(given[0])
