"""The JSON that views are made of, under /api/. Lengths and times are in seconds.

| address | what it gives |
|---|---|
| `/api/turns` | the turns of a query, each with the sentence that says why the user waited; how many match |
| `/api/turns/ID` | one trace: its turn, what is beside it, its spans, its log; `last` and a prefix do as well |
| `/api/turns/ID/audio/ROLE` | what `user` or `agent` said, as a WAV file; also in parts |
| `/api/turns/ID/peaks` | how loud each side was in the course of what it said |
| `/api/figures` | key figures and the percentiles of every stage; `objective_ms` is what turns should stay within |
| `/api/silence` | where the heard silence goes: the stages' mean and median |
| `/api/dots` | one latency of every turn over time, with percentile lines; `of` names the latency |
| `/api/choices` | the services, models, voices, workers and outcomes that there are |
| `/api/sessions` | the sessions of the turns of a query, the newest first |
| `/api/session` | one session (`id`) as a conversation: its newest turns, those `around` one, or from the `first` on |
| `/api/runs` | the runs of the turns of a query, the newest first |
| `/api/compare` | what changed between the turns of a query and others: `against=run:ID` or `against=SINCE..UNTIL` |
| `/api/traces` | the newest traces that are no turns |
| `/api/events` | server-sent events: ids of turns as they come |

The parameters of a query are those of `view.query`; they mean the same everywhere. What was said is given to who asks
from this machine, and to nobody else. Other modules have the rest: `status.py` what the viewer says about itself,
`progress.py` the turns in progress (`/api/open`) and what is said in them (`/api/content`), `transfer.py` `/api/export`
and `/api/import`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from voicespan.local import figures, view
from voicespan.local.access import WITHHELD, is_near
from voicespan.local.audio import SAMPLE_BYTES, as_wav, part_of, peaks
from voicespan.local.compare import compare, earlier
from voicespan.local.conversation import UnknownSessionError, conversation
from voicespan.local.reader import UnknownTurnError
from voicespan.local.runs import runs
from voicespan.local.schema import StoreError
from voicespan.local.sessions import sessions
from voicespan.local.traces import traces
from voicespan.local.words import NS_PER_MS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from starlette.requests import Request

    from voicespan.local.live import Live
    from voicespan.local.reader import Reader


MAX_SPANS = 2_000
"""The spans of one trace that are given; the rest is counted."""

MAX_LOGS = 500
"""The log records of one turn that are given; the rest is counted."""

_UNKEPT = {"Cache-Control": "no-store"}


class Api:
    """The endpoints. Each question is asked in a thread, on a connection of its own."""

    def __init__(self, reader: Reader, live: Live, *, content: bool = False) -> None:
        self.reader = reader
        self.live = live
        self.content = content
        """Whether what is said is kept, here and now."""

    def routes(self) -> Iterator[Route]:
        """Yield the routes."""
        yield Route("/api/turns", self.turns)
        yield Route("/api/turns/{trace_id}", self.turn)
        yield Route("/api/turns/{trace_id}/audio/{role}", self.audio)
        yield Route("/api/turns/{trace_id}/peaks", self.peaks)
        yield Route("/api/figures", partial(_answer, self._figures))
        yield Route("/api/silence", partial(_answer, self._silence))
        yield Route("/api/dots", partial(_answer, self._dots))
        yield Route("/api/choices", partial(_answer, self._choices))
        yield Route("/api/sessions", partial(_answer, self._sessions))
        yield Route("/api/session", self.session)
        yield Route("/api/runs", partial(_answer, self._runs))
        yield Route("/api/compare", partial(_answer, self._compare))
        yield Route("/api/traces", partial(_answer, self._traces))
        yield Route("/api/events", self.events)

    async def turns(self, request: Request) -> Response:
        """Give the turns of a query."""
        return await _answer(partial(self._turns, near=is_near(request)), request)

    async def turn(self, request: Request) -> Response:
        """Give one trace."""
        prefix, near = request.path_params["trace_id"], is_near(request)
        return await _answer(lambda _: self._turn(prefix, near=near), request)

    async def session(self, request: Request) -> Response:
        """Give one session as a conversation."""
        return await _answer(partial(self._session, near=is_near(request)), request)

    async def audio(self, request: Request) -> Response:
        """Give what one side said in a turn as a WAV file."""
        if not is_near(request):
            return as_json({"error": WITHHELD}, 403)
        prefix, role = request.path_params["trace_id"], request.path_params["role"]
        wanted = request.headers.get("range", "")
        return await _answer(lambda _: self._audio(prefix, role, wanted), request)

    async def peaks(self, request: Request) -> Response:
        """Give what one sees of the audio of a turn."""
        prefix, near = request.path_params["trace_id"], is_near(request)
        return await _answer(lambda _: self._peaks(prefix, near=near), request)

    async def events(self, _: Request) -> Response:
        """Send the ids of turns as they are stored."""
        return StreamingResponse(
            self.live.stream(), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )

    def _turns(self, parameters: Mapping[str, str], *, near: bool) -> dict[str, Any]:
        query = view.query(parameters)
        rows = self.reader.turns(query)
        counts = self.reader.log_counts([row.trace_id for row in rows])
        found = []
        for row in rows:
            lines, warnings = counts.get(row.trace_id, (0, 0))
            found.append(view.turn(row, content=near) | {"log_lines": lines, "log_warnings": warnings})
        with self.reader.columns.current() as columns:
            return {"matching": len(columns.select(query)), "turns": found}

    def _turn(self, prefix: str, *, near: bool) -> dict[str, Any]:
        trace_id = self.reader.find(prefix)
        turn = self.reader.turn(trace_id)
        spans = self.reader.spans(trace_id, content=near, most=MAX_SPANS)
        more = self.reader.count_spans(trace_id) - len(spans) if len(spans) == MAX_SPANS else 0
        logs = self.reader.logs(trace_id, MAX_LOGS, content=near)
        beyond = self.reader.count_logs(trace_id) - len(logs) if len(logs) == MAX_LOGS else 0
        return {
            **view.trace(trace_id, turn, spans, self.reader.scores(trace_id, content=near), content=near),
            "spans_beyond": more,
            "neighbours": self.reader.neighbours(turn) if turn else {},
            "interrupted_by": self.reader.interrupted_by(turn) if turn else None,
            "run": turn.run if turn else None,
            "logs": view.logs(logs),
            "logs_beyond": beyond,
            "content": self.reader.content([trace_id])[trace_id] if near else {},
            **self._about_content(near=near),
        }

    def _about_content(self, *, near: bool) -> dict[str, Any]:
        return {"content_kept": self.content, "content_withheld": None if near else WITHHELD}

    def _audio(self, prefix: str, role: str, wanted: str) -> Response:
        trace_id = self.reader.find(prefix)
        found = self.reader.audio(trace_id, role)
        if found is None:
            raise UnknownTurnError(f"there is no audio of {role!r} in trace {trace_id}")
        wav = as_wav(*found)
        headers = {**_UNKEPT, "Accept-Ranges": "bytes"}
        try:
            part = part_of(wanted, len(wav))
        except ValueError as error:
            return as_json({"error": str(error)}, 416, {"Content-Range": f"bytes */{len(wav)}"})
        if part is None:
            return Response(wav, media_type="audio/wav", headers=headers)
        start, end = part
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(wav)}"
        return Response(wav[start:end], 206, headers, media_type="audio/wav")

    def _peaks(self, prefix: str, *, near: bool) -> dict[str, Any]:
        trace_id = self.reader.find(prefix)
        sides: dict[str, Any] = {}
        for role in ("user", "agent"):
            found = self.reader.audio(trace_id, role) if near else None
            if found is not None:
                pcm, sample_rate = found
                sides[role] = {"duration_s": len(pcm) / SAMPLE_BYTES / sample_rate, "peaks": peaks(pcm)}
        return {"trace_id": trace_id, "sides": sides, **self._about_content(near=near)}

    def _figures(self, parameters: Mapping[str, str]) -> dict[str, Any]:
        objective_ns = view.number(parameters, "objective_ms", figures.OBJECTIVE_NS, NS_PER_MS)
        return figures.figures(self.reader, view.query(_without(parameters, "objective_ms")), objective_ns)

    def _silence(self, parameters: Mapping[str, str]) -> dict[str, Any]:
        return figures.silence(self.reader, view.query(parameters))

    def _dots(self, parameters: Mapping[str, str]) -> Response:
        stage = parameters.get("of") or "response"
        text = figures.dots(self.reader, view.query(_without(parameters, "of")), stage)
        return Response(text, media_type="application/json", headers=_UNKEPT)

    def _choices(self, parameters: Mapping[str, str]) -> dict[str, Any]:
        return figures.choices(self.reader, view.query(parameters))

    def _sessions(self, parameters: Mapping[str, str]) -> dict[str, Any]:
        return sessions(self.reader, view.query(parameters))

    def _session(self, parameters: Mapping[str, str], *, near: bool) -> dict[str, Any]:
        session_id, around, first = _only(parameters, "id", "around", "first")
        found = conversation(
            self.reader,
            session_id,
            content=near,
            around=around or None,
            first=view.number(parameters, "first", 0, 1) if first else None,
        )
        return found | self._about_content(near=near)

    def _runs(self, parameters: Mapping[str, str]) -> dict[str, Any]:
        return runs(self.reader, view.query(parameters))

    def _compare(self, parameters: Mapping[str, str]) -> dict[str, Any]:
        objective_ns = view.number(parameters, "objective_ms", figures.OBJECTIVE_NS, NS_PER_MS)
        now = view.query(_without(parameters, "objective_ms", "against"))
        return compare(self.reader, now, earlier(now, parameters.get("against", "")), objective_ns)

    def _traces(self, parameters: Mapping[str, str]) -> dict[str, Any]:
        (limit,) = _only(parameters, "limit")
        return traces(self.reader, view.query({"limit": limit}).limit)


async def _answer(ask: Callable[[Mapping[str, str]], dict[str, Any] | Response], request: Request) -> Response:
    try:
        found = await run_in_threadpool(ask, request.query_params)
    except (UnknownTurnError, UnknownSessionError) as error:
        return as_json({"error": str(error)}, 404)
    except ValueError as error:
        return as_json({"error": str(error)}, 400)
    except StoreError as error:
        return as_json({"error": str(error)}, 503)
    return found if isinstance(found, Response) else as_json(found)


def as_json(content: dict[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return an answer that nobody keeps."""
    return JSONResponse(content, status, {**_UNKEPT, **(headers or {})})


def _without(parameters: Mapping[str, str], *keys: str) -> dict[str, str]:
    return {name: value for name, value in parameters.items() if name not in keys}


def _only(parameters: Mapping[str, str], *keys: str) -> list[str]:
    """Return the values of these parameters, empty ones where they are missing; others there may not be."""
    unknown = sorted(set(parameters) - set(keys))
    if unknown:
        raise ValueError(f"no parameter {unknown[0]!r}: there is {', '.join(keys)}")
    return [parameters.get(key, "") for key in keys]
