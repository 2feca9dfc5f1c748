"""The JSON that views are made of, under /api/. Lengths and times are in seconds.

| address | what it gives |
|---|---|
| `/api/turns` | the turns of a query, each with the sentence that says why the user waited; how many match |
| `/api/turns/ID` | one trace: its turn, the turns before and after it, its spans; `last` and a prefix do as well |
| `/api/figures` | key figures and the percentiles of every stage; `objective_ms` is what turns should stay within |
| `/api/silence` | where the heard silence goes: the stages' mean and median |
| `/api/dots` | one latency of every turn over time, with percentile lines; `of` names the latency |
| `/api/choices` | the services, models, voices, workers and outcomes that there are |
| `/api/events` | server-sent events: ids of turns as they come |

The parameters of a query are those of `view.query`; they mean the same everywhere.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from voicespan.local import figures, view
from voicespan.local.reader import UnknownTurnError
from voicespan.local.schema import StoreError
from voicespan.local.words import NS_PER_MS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from starlette.requests import Request

    from voicespan.local.live import Live
    from voicespan.local.reader import Reader


class Api:
    """The endpoints. Each question is asked in a thread, on a connection of its own."""

    def __init__(self, reader: Reader, live: Live) -> None:
        self.reader = reader
        self.live = live

    def routes(self) -> Iterator[Route]:
        """Yield the routes."""
        yield Route("/api/turns", partial(_answer, self._turns))
        yield Route("/api/turns/{trace_id}", self.turn)
        yield Route("/api/figures", partial(_answer, self._figures))
        yield Route("/api/silence", partial(_answer, self._silence))
        yield Route("/api/dots", partial(_answer, self._dots))
        yield Route("/api/choices", partial(_answer, self._choices))
        yield Route("/api/events", self.events)

    async def turn(self, request: Request) -> Response:
        """Give one trace."""
        prefix = request.path_params["trace_id"]
        return await _answer(lambda _: self._turn(prefix), request)

    async def events(self, _: Request) -> Response:
        """Send the ids of turns as they are stored."""
        return StreamingResponse(
            self.live.stream(), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )

    def _turns(self, parameters: Mapping[str, str]) -> dict[str, Any]:
        query = view.query(parameters)
        found = [view.turn(turn) for turn in self.reader.turns(query)]
        return {"matching": self.reader.count_of(query), "turns": found}

    def _turn(self, prefix: str) -> dict[str, Any]:
        trace_id = self.reader.find(prefix)
        turn = self.reader.turn(trace_id)
        found = view.trace(trace_id, turn, self.reader.spans(trace_id))
        return {**found, "neighbours": self.reader.neighbours(turn) if turn else {}}

    def _figures(self, parameters: Mapping[str, str]) -> dict[str, Any]:
        objective_ns = view.number(parameters, "objective_ms", figures.OBJECTIVE_NS, NS_PER_MS)
        return figures.figures(self.reader, view.query(_without(parameters, "objective_ms")), objective_ns)

    def _silence(self, parameters: Mapping[str, str]) -> dict[str, Any]:
        return figures.silence(self.reader, view.query(parameters))

    def _dots(self, parameters: Mapping[str, str]) -> dict[str, Any]:
        stage = parameters.get("of") or "response"
        return figures.dots(self.reader, view.query(_without(parameters, "of")), stage)

    def _choices(self, parameters: Mapping[str, str]) -> dict[str, Any]:
        return figures.choices(self.reader, view.query(parameters))


async def _answer(ask: Callable[[Mapping[str, str]], dict[str, Any]], request: Request) -> Response:
    try:
        return as_json(await run_in_threadpool(ask, request.query_params))
    except UnknownTurnError as error:
        return as_json({"error": str(error)}, 404)
    except ValueError as error:
        return as_json({"error": str(error)}, 400)
    except StoreError as error:
        return as_json({"error": str(error)}, 503)


def as_json(content: dict[str, Any], status: int = 200) -> Response:
    """Return an answer that nobody keeps."""
    return JSONResponse(content, status, {"Cache-Control": "no-store"})


def _without(parameters: Mapping[str, str], key: str) -> dict[str, str]:
    return {name: value for name, value in parameters.items() if name != key}
