"""Where the terminal's commands read turns: the store of this machine, a viewer elsewhere, or Tempo.

What is elsewhere is fetched as OTLP into a store that is gone when the command ends, so that every command asks the
same reader and draws the same picture, wherever the turns are.
"""

from __future__ import annotations

import io
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from google.protobuf.json_format import ParseDict, ParseError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from voicespan import names as n
from voicespan.local import decode
from voicespan.local.form import MalformedRequestError
from voicespan.local.intake import Intake
from voicespan.local.query import FAILED, INCOMPLETE, UNANSWERED, TurnQuery
from voicespan.local.reader import Reader, UnknownTurnError
from voicespan.local.runs import runs
from voicespan.local.store import Store
from voicespan.local.transfer import Imported, take_file
from voicespan.local.turn import NS_PER_S
from voicespan.local.words import NS_PER_MS
from voicespan.sdk.endpoint import is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

LOOKED_BACK_S = 86_400
"""How far back Tempo is asked where no time is named: without one it searches its newest minutes only."""

MOST_SORTED = 1_000
"""So many of the newest turns are looked at where Tempo's are to be sorted by something else than time."""

_TIMEOUT_S = 30.0
_AT_ONCE = 8
_PIECE = 64
_TRACE_DIGITS = 32
_NOT_FOUND = 404
_WANTS_TOKEN = (401, 403)


class OriginError(Exception):
    """Turns cannot be read there; the message says where, why, and what to do."""


class Found(NamedTuple):
    """Turns that were asked for: who knows them, and the query that selects them there."""

    reader: Reader
    query: TurnQuery


class Origin(Protocol):
    """Where turns are read.

    Every method raises OriginError where nobody answers or the question is not possible there, StoreError where the
    store cannot be read, and UnknownTurnError where there is no such trace.
    """

    def turns(self, query: TurnQuery) -> AbstractContextManager[Found]:
        """Give the turns of a query."""

    def trace(self, prefix: str) -> AbstractContextManager[tuple[Reader, str]]:
        """Give one trace, found by how its id begins or as `last`: who knows it, and its id."""

    def runs(self) -> list[dict[str, Any]]:
        """Return the runs that there are turns of, the newest first, as `voicespan.local.runs` gives them."""


@dataclass(frozen=True, slots=True)
class Local:
    """The store of this machine."""

    database: Path

    @contextmanager
    def turns(self, query: TurnQuery) -> Iterator[Found]:
        """Give the turns of a query."""
        reader = Reader(self.database)
        try:
            yield Found(reader, query)
        finally:
            reader.close()

    @contextmanager
    def trace(self, prefix: str) -> Iterator[tuple[Reader, str]]:
        """Give one trace."""
        reader = Reader(self.database)
        try:
            yield reader, reader.find(prefix)
        finally:
            reader.close()

    def runs(self) -> list[dict[str, Any]]:
        """Return the runs."""
        reader = Reader(self.database)
        try:
            return list(runs(reader, TurnQuery())["runs"])
        finally:
            reader.close()


class Server(Protocol):
    """A program elsewhere that has traces."""

    def ids(self, query: TurnQuery) -> list[str]:
        """Return the ids of the traces of these turns."""

    def fetch(self, trace_id: str) -> Callable[[Intake], None]:
        """Fetch one trace whole; return what puts it into a store."""

    def whole_id(self, prefix: str) -> str:
        """Return the id of the trace that begins so, or of the last turn."""

    def runs(self) -> list[dict[str, Any]]:
        """Return the runs."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """A viewer or Tempo; `track` shows how far the fetching is."""

    server: Server
    track: Callable[[Iterator[Any], int], Iterator[Any]] = lambda items, _: items

    @contextmanager
    def turns(self, query: TurnQuery) -> Iterator[Found]:
        """Give the turns of a query."""
        trace_ids = self.server.ids(query)
        with Store() as store:
            self._fill(store, trace_ids)
            # The other side has chosen; its numbers of runs are not those of this store.
            yield Found(store.reader, TurnQuery(sort=query.sort, ascending=query.ascending, limit=query.limit))

    @contextmanager
    def trace(self, prefix: str) -> Iterator[tuple[Reader, str]]:
        """Give one trace."""
        trace_id = self.server.whole_id(prefix)
        with Store() as store:
            self._fill(store, [trace_id])
            yield store.reader, store.reader.find(trace_id)

    def runs(self) -> list[dict[str, Any]]:
        """Return the runs."""
        return self.server.runs()

    def _fill(self, store: Store, trace_ids: list[str]) -> None:
        intake = Intake(store)
        try:
            with ThreadPoolExecutor(_AT_ONCE) as threads:
                for keep in self.track(self._fetched(threads, trace_ids), len(trace_ids)):
                    keep(intake)
        finally:
            intake.close()

    def _fetched(self, threads: ThreadPoolExecutor, trace_ids: list[str]) -> Iterator[Callable[[Intake], None]]:
        for start in range(0, len(trace_ids), _PIECE):  # no more than these wait in memory
            yield from threads.map(self.server.fetch, trace_ids[start : start + _PIECE])


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is, and what it is to be told with every request."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def ask(self, path: str, **parameters: object) -> Any:
        """Return what stands in the JSON that a path answers with."""
        body = self.read(path, **parameters)
        try:
            return json.loads(body)
        except ValueError as error:
            raise OriginError(f"{self.url}{path} answered with something that is no JSON: {error}") from None

    def read(self, path: str, **parameters: object) -> bytes:
        """Return the body that a path answers with."""
        given = {name: value for name, value in parameters.items() if value is not None}
        url = f"{self.url}{path}{'?' if given else ''}{urllib.parse.urlencode(given)}"
        try:
            asked = urllib.request.Request(url, headers=dict(self.headers))  # noqa: S310 - `server_at` has looked at it
            with self._opener().open(asked, timeout=_TIMEOUT_S) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            raise self._refused(error) from None
        except (OSError, ValueError) as error:
            raise OriginError(f"nothing answers at {self.url}: {_reason(error)}") from None

    def _opener(self) -> urllib.request.OpenerDirector:
        host = urllib.parse.urlsplit(self.url).hostname or ""
        # A proxy reaches this machine's own ports at best in a detour.
        return urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if is_loopback(host) else []))

    def _refused(self, error: urllib.error.HTTPError) -> Exception:
        body = error.read(2000).decode(errors="replace").strip()
        try:
            said = str(json.loads(body)["error"])
        except (ValueError, KeyError, TypeError):
            said = body.partition("\n")[0][:200]
        if error.code == _NOT_FOUND:
            return UnknownTurnError(said)
        if error.code in _WANTS_TOKEN:
            return OriginError(f"{self.url} refuses ({error.code} {said or error.reason}): give its --token")
        return OriginError(f"{self.url} answered {error.code} {error.reason}: {said}")


def _reason(error: Exception) -> str:
    inner = getattr(error, "reason", error)
    return str(getattr(inner, "strerror", None) or inner).lower()


def server_at(url: str, headers: Mapping[str, str]) -> Server:
    """Return the viewer, or the Tempo, that answers at this URL.

    Raises:
        OriginError: nobody answers, or somebody else.

    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise OriginError(f"{url} is no address: write http://HOST:PORT")
    address = Address(url.rstrip("/"), headers)
    try:
        told = json.loads(address.read("/health"))
    except (UnknownTurnError, ValueError):
        told = None
    if isinstance(told, dict) and told.get("service") == "voicespan":
        return Viewer(address)
    try:
        if address.read("/api/echo").strip() == b"echo":
            return Tempo(address)
    except UnknownTurnError:
        pass
    raise OriginError(
        f"{address.url} is neither a viewer of voicespan (usually port 4318) nor Tempo (usually port 3200)"
    )


@dataclass(frozen=True, slots=True)
class Viewer:
    """The viewer of voicespan, by its API."""

    address: Address

    def ids(self, query: TurnQuery) -> list[str]:
        """Return the ids of the traces of these turns."""
        return [turn["trace_id"] for turn in self.address.ask("/api/turns", **parameters(query))["turns"]]

    def fetch(self, trace_id: str) -> Callable[[Intake], None]:
        """Fetch one trace whole."""
        text = self.address.read("/api/export", trace=trace_id).decode()
        return lambda intake: take_file(io.StringIO(text), intake, Imported())

    def whole_id(self, prefix: str) -> str:
        """Return the id of the trace that begins so, or of the last turn."""
        return str(self.address.ask(f"/api/turns/{urllib.parse.quote(prefix, safe='')}")["trace_id"])

    def runs(self) -> list[dict[str, Any]]:
        """Return the runs."""
        return list(self.address.ask("/api/runs")["runs"])


def parameters(query: TurnQuery) -> dict[str, object]:
    """Return a query as the parameters that `view.query` reads."""
    return {
        "session": query.session,
        "outcome": query.outcome,
        "service": query.service,
        "model": query.model,
        "voice": query.voice,
        "worker": query.worker,
        "run": query.run,
        "slower_than_ms": _over(query.slower_than_ns, NS_PER_MS),
        "stage": query.stage,
        "over_ms": _over(query.over_ns, NS_PER_MS),
        "since_s": _over(query.since_ns, NS_PER_S),
        "until_s": _over(query.until_ns, NS_PER_S),
        "sort": query.sort,
        "order": "asc" if query.ascending else "desc",
        "limit": query.limit,
    }


def _over(value: int | None, factor: int) -> float | None:
    return None if value is None else value / factor


_STAGE_SPANS = {
    "response": n.SPAN_RESPONSE,
    "duration": n.SPAN_TURN,
    "answer": n.SPAN_ANSWER,
    "endpoint": n.SPAN_VAD_ENDPOINT,
    "asr": n.SPAN_ASR_FINALIZE,
    "llm": n.SPAN_LLM_TTFT,
    "sentence": n.SPAN_LLM_FIRST_SENTENCE,
    "tool": n.SPAN_EXECUTE_TOOL,
    "tts": n.SPAN_TTS_FIRST_AUDIO,
    "realtime": n.SPAN_REALTIME_FIRST_AUDIO,
    "network": n.SPAN_PLAYBACK_START,
    "silenced": n.SPAN_BARGE_IN,
}
"""The span whose length is the latency of a stage, by the names of SORT_COLUMNS."""


@dataclass(frozen=True, slots=True)
class Tempo:
    """Tempo, by TraceQL and by trace id. A turn is found by search some seconds after it can be found by its id."""

    address: Address

    def ids(self, query: TurnQuery) -> list[str]:
        """Return the ids of the traces of these turns; to sort by a latency, the newest of them are looked at."""
        if query.run is not None:
            raise OriginError("Tempo knows no runs: name two times, as in 2h..1h 1h..")
        limit = query.limit if query.sort == "start" else max(query.limit, MOST_SORTED)
        until_s = time.time() if query.until_ns is None else query.until_ns / NS_PER_S
        since_s = until_s - LOOKED_BACK_S if query.since_ns is None else query.since_ns / NS_PER_S
        answer = self.address.ask(
            "/api/search",
            q=traceql(query),
            limit=limit,
            start=int(since_s),
            end=max(int(until_s) + 1, int(since_s) + 1),
        )
        found = answer.get("traces") or []
        within = (
            each["traceID"].rjust(_TRACE_DIGITS, "0")
            for each in found
            if (query.since_ns or 0) <= int(each.get("startTimeUnixNano", 0)) + NS_PER_S
        )
        return list(dict.fromkeys(within))[:limit]

    def fetch(self, trace_id: str) -> Callable[[Intake], None]:
        """Fetch one trace whole."""
        try:
            answer = self.address.ask(f"/api/v2/traces/{trace_id}")
        except UnknownTurnError:
            raise UnknownTurnError(f"{self.address.url} has no trace {trace_id}") from None
        found = answer.get("trace") or {}
        if not found.get("resourceSpans"):
            raise UnknownTurnError(f"{self.address.url} has no trace {trace_id}")
        try:
            message = ParseDict(found, ExportTraceServiceRequest(), ignore_unknown_fields=True)
            request = decode.checked(message, content=False)
        except (ParseError, MalformedRequestError) as error:
            raise OriginError(f"{self.address.url} answered with a trace that cannot be read: {error}") from None
        return lambda intake: intake.run(lambda: intake.keep_spans(request)).result()

    def whole_id(self, prefix: str) -> str:
        """Return the id of the last turn; others are to be given whole."""
        if prefix == "last":
            newest = self.ids(TurnQuery(limit=1))
            if not newest:
                raise UnknownTurnError(f"{self.address.url} has no turn of the last 24 hours")
            return newest[0]
        if len(prefix) != _TRACE_DIGITS or set(prefix.lower()) - set("0123456789abcdef"):
            raise UnknownTurnError(
                f"Tempo finds traces by their whole id, {_TRACE_DIGITS} hex digits: {prefix!r} is none"
            )
        return prefix.lower()

    def runs(self) -> list[dict[str, Any]]:
        """Raise OriginError: there are none."""
        raise OriginError("Tempo knows no runs: name two times, as in 2h..1h 1h..")


def traceql(query: TurnQuery) -> str:
    """Return a query in TraceQL; it finds traces, whose turns may then be sorted.

    Raises:
        OriginError: TraceQL cannot ask for that.

    """
    if query.outcome == INCOMPLETE or query.search:
        raise OriginError("Tempo cannot be asked for what is missing, or for a part of a session's name")
    root = [f'span:name = "{n.SPAN_TURN}"']
    for key, value in ((n.SESSION_ID, query.session), (n.VOICE_TURN_OUTCOME, query.plain_outcome)):
        if value is not None:
            root.append(f"span.{json.dumps(key)} = {json.dumps(value)}")
    if query.outcome == FAILED:
        root.append(f'span.{json.dumps(n.VOICE_TURN_OUTCOME)} =~ "error|timeout"')
    if query.service is not None:
        root.append(f"resource.service.name = {json.dumps(query.service)}")
    conditions = [" && ".join(root)]
    if query.outcome == UNANSWERED:
        conditions.append(f'span:name = "{n.SPAN_UNANSWERED}"')
    # What the user waited for has copies of who made them wait.
    silence = [f'span:name =~ "{n.SPAN_RESPONSE}|{n.SPAN_UNANSWERED}"']
    for key, value in (
        (n.GEN_AI_REQUEST_MODEL, query.model),
        (n.VOICE_TTS_VOICE_NAME, query.voice),
        (n.VOICE_WORKER_ID, query.worker),
    ):
        if value is not None:
            silence.append(f"span.{json.dumps(key)} = {json.dumps(value)}")
    if query.slower_than_ns is not None:
        silence.append(f"span:duration > {query.slower_than_ns}ns")
    if len(silence) > 1:
        conditions.append(" && ".join(silence))
    if query.over_ns is not None:
        name = _STAGE_SPANS[query.stage]
        named = f'span:name =~ "{name}.*"' if query.stage == "tool" else f'span:name = "{name}"'
        conditions.append(f"{named} && span:duration > {query.over_ns}ns")
    found = " && ".join(f"{{ {condition} }}" for condition in conditions)
    return f"{found} with (most_recent=true)"
