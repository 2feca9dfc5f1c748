"""Redis, of threads and of asyncio: one span and one measurement for each command, and the connections of each pool.

Takes the place of OpenTelemetry's own `opentelemetry-instrumentation-redis`, which does not set `db.operation.name`,
names a pipeline after all its commands, measures nothing, and writes found documents onto its spans. Nothing of the
library is imported here.
"""

from __future__ import annotations

import sys
import time
import weakref
from typing import TYPE_CHECKING, Any, ClassVar

from opentelemetry import metrics, trace
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.metrics import Observation

from voicespan import events
from voicespan import names as n
from voicespan.guard import guarded, swallowed
from voicespan.integrations.library import LibraryInstrumentor
from voicespan.metrics.instruments import METRICS
from voicespan.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_CLIENT = ("Redis.execute_command", "Pipeline.execute", "Pipeline.immediate_execute_command")
_CLUSTER = ("RedisCluster.execute_command", "ClusterPipeline.execute")
_POOL = ("ConnectionPool.__init__",)
_PIPELINE = "PIPELINE"
_MULTI = "MULTI"
_tracer = trace.get_tracer("voicespan.redis", __version__)
_meter = metrics.get_meter("voicespan.redis", __version__)
_measured = METRICS[n.METRIC_DB_CLIENT_OPERATION_DURATION]
_duration = _meter.create_histogram(_measured.name, _measured.unit, _measured.brief)
_KNOWN_AS_TWO = frozenset(
    {"ACL", "CLIENT", "CLUSTER", "CONFIG", "FUNCTION", "MEMORY", "OBJECT", "SCRIPT", "XGROUP", "XINFO"}
)
"""Commands whose first argument is part of the name."""


class RedisInstrumentor(LibraryInstrumentor):
    """Entry point `opentelemetry_instrumentor`: waits for the library to be imported."""

    requirement = "redis >= 5"
    functions: ClassVar = {
        "redis.client": _CLIENT,
        "redis.cluster": _CLUSTER,
        "redis.connection": _POOL,
        "redis.asyncio.client": _CLIENT,
        "redis.asyncio.cluster": _CLUSTER,
        "redis.asyncio.connection": _POOL,
    }
    stock = ("opentelemetry.instrumentation.redis", "RedisInstrumentor")

    def around(self, name: str) -> Callable[..., Any]:
        """Return what stands around a function."""
        if name in _POOL:
            return _pool
        return _pipeline if name.endswith("Pipeline.execute") else _command


class _Operation:
    """One command, or the commands of one pipeline, from being sent to the answer's being read."""

    __slots__ = ("_address", "_begun_ns", "_name", "_span")

    def __init__(self, name: str, client: Any, size: int = 1) -> None:
        self._name = name
        self._address = _server(client)
        attributes = {n.DB_SYSTEM_NAME: "redis", n.DB_OPERATION_NAME: name, **self._address}
        if size > 1:
            attributes[n.DB_OPERATION_BATCH_SIZE] = size
        self._begun_ns = time.monotonic_ns()
        self._span = _tracer.start_span(name, kind=trace.SpanKind.CLIENT, attributes=attributes)

    @guarded
    def end(self, error: BaseException | None) -> None:
        """End the span. A key that changed under WATCH is an answer, and what was cancelled no error."""
        measured = {n.DB_SYSTEM_NAME: "redis", n.DB_OPERATION_NAME: self._name}
        if isinstance(error, Exception) and type(error).__name__ != "WatchError":
            measured[n.ERROR_TYPE] = kind = type(error).__qualname__
            self._span.set_attribute(n.ERROR_TYPE, kind)
            if (code := _code(error)) is not None:
                self._span.set_attribute(n.DB_RESPONSE_STATUS_CODE, code)
            self._span.set_status(trace.StatusCode.ERROR)
            self._span.record_exception(error)
            if type(error).__name__ == "ConnectionError":
                where = self._span.get_span_context()
                events.unreachable("redis.unreachable", "Failed to connect to Redis", error, self._address, where)
        duration_s = (time.monotonic_ns() - self._begun_ns) / 1e9
        context = trace.set_span_in_context(self._span)
        if not _measures_itself("COMMAND"):
            _duration.record(duration_s, measured, context)
        self._span.end()


def _command(wrapped: Callable[..., Any], client: Any, args: Any, kwargs: Any) -> Any:
    """Stand around `execute_command`."""
    return _run(lambda: _Operation(_name(args), client), wrapped, args, kwargs)


def _pipeline(wrapped: Callable[..., Any], client: Any, args: Any, kwargs: Any) -> Any:
    """Stand around a pipeline's `execute`."""

    def begin() -> _Operation | None:
        commands = [_arguments(command) for command in _queue(client)]
        names = {_name(command) for command in commands}
        if not commands:
            return None
        # A flag under one of two names; under the other one asyncio's pipeline has a method.
        transaction = True in (getattr(client, "is_transaction", None), getattr(client, "transaction", None))
        kind = _MULTI if transaction else _PIPELINE
        return _Operation(f"{kind} {names.pop()}" if len(names) == 1 else kind, client, len(commands))

    return _run(begin, wrapped, args, kwargs)


def _run(begin: Callable[[], _Operation | None], wrapped: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """Call inside an operation; what is awaited ends it only then."""
    operation = None
    if is_instrumentation_enabled():
        try:
            operation = begin()
        except Exception as error:
            swallowed("redis", error)
    if operation is None:
        return wrapped(*args, **kwargs)
    try:
        result = wrapped(*args, **kwargs)
    except BaseException as error:
        operation.end(error)
        raise
    if hasattr(result, "__await__"):
        return _awaited(result, operation)
    operation.end(None)
    return result


async def _awaited(result: Any, operation: _Operation) -> Any:
    try:
        answer = await result
    except BaseException as error:
        operation.end(error)
        raise
    operation.end(None)
    return answer


def _name(args: Any) -> str:
    """Return the name of a command; its arguments are nobody's business."""
    name = _text(args[0]).upper() if args else "UNKNOWN"
    if name in _KNOWN_AS_TWO and len(args) > 1 and isinstance(args[1], str) and args[1].isalpha():
        name = f"{name} {args[1].upper()}"
    return name


def _text(word: Any) -> str:
    return word.decode(errors="replace") if isinstance(word, bytes) else str(word)


def _arguments(command: Any) -> Any:
    """Return a queued command's words: clusters queue objects, pipelines pairs of words and options."""
    return command.args if hasattr(command, "args") else command[0]


def _queue(pipeline: Any) -> Any:
    strategy = getattr(pipeline, "_execution_strategy", None)
    for owner, name in ((strategy, "command_queue"), (strategy, "_command_queue"), (pipeline, "command_stack"),
                        (pipeline, "_command_stack")):  # fmt: skip
        found = getattr(owner, name, None)
        if found is not None:
            return list(found)
    return []


def _code(error: BaseException) -> str | None:
    """Return the first word of what the server has answered, which is in capitals; a client's own error has none."""
    if type(error).__name__ in ("ConnectionError", "TimeoutError"):
        return None
    word = str(error).partition(" ")[0]
    return word if word.isupper() and word.isalpha() else None


def _server(client: Any) -> dict[str, Any]:
    return _address(getattr(getattr(client, "connection_pool", None), "connection_kwargs", None) or {})


def _address(options: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {n.DB_NAMESPACE: str(options.get("db") or 0)}
    if "path" in options:
        return {n.SERVER_ADDRESS: str(options["path"]), **found}
    if "host" in options:
        return {n.SERVER_ADDRESS: str(options["host"]), n.SERVER_PORT: int(options.get("port") or 6379), **found}
    return found


# Pools


_pools: weakref.WeakSet[Any] = weakref.WeakSet()
_observed: list[bool] = []


def _pool(wrapped: Callable[..., Any], pool: Any, args: Any, kwargs: Any) -> None:
    """Stand around a pool's constructor."""
    wrapped(*args, **kwargs)
    try:
        _pools.add(pool)
        if not _observed:
            _observed.append(True)
            count = METRICS[n.METRIC_DB_CLIENT_CONNECTION_COUNT]
            _meter.create_observable_up_down_counter(count.name, [_connections], count.unit, count.brief)
    except Exception as error:
        swallowed("redis pool", error)


def _connections(_options: object) -> Iterable[Observation]:
    """Count the connections of all pools, of equal ones together."""
    counts: dict[tuple[str, str], int] = {}
    try:
        for pool in list(_pools):
            name = _pool_name(getattr(pool, "connection_kwargs", None) or {})
            for state, count in _states(pool):
                counts[name, state] = counts.get((name, state), 0) + count
    except Exception as error:
        swallowed("redis pool", error)
    if _measures_itself("CONNECTION_BASIC"):
        return []
    return [
        Observation(count, {n.DB_CLIENT_CONNECTION_POOL_NAME: name, n.DB_CLIENT_CONNECTION_STATE: state})
        for (name, state), count in counts.items()
    ]


def _states(pool: Any) -> Iterator[tuple[str, int]]:
    """Yield the connections in use and idle. Another thread may take one meanwhile: the lengths are read at once."""
    in_use = getattr(pool, "_in_use_connections", None)
    if in_use is not None:
        yield "used", len(in_use)
        yield "idle", len(pool._available_connections)  # noqa: SLF001
    else:  # the blocking pool of threads: places in a queue, None where no connection was made yet
        made = list(pool._connections)  # noqa: SLF001
        idle = sum(1 for each in list(pool.pool.queue) if each is not None)
        yield "used", max(0, len(made) - idle)
        yield "idle", idle


def _pool_name(options: dict[str, Any]) -> str:
    """Return `host:port/db`, which the conventions give to a pool that has no name."""
    where = _address(options)
    port = f":{where[n.SERVER_PORT]}" if n.SERVER_PORT in where else ""
    return f"{where.get(n.SERVER_ADDRESS, 'redis')}{port}/{where[n.DB_NAMESPACE]}"


def _measures_itself(group: str) -> bool:
    """Whether the service has switched on the library's own metrics of this group, which have the same names."""
    providers = sys.modules.get("redis.observability.providers")
    instance = getattr(providers, "_observability_instance", None)
    groups = getattr(getattr(getattr(instance, "_provider_manager", None), "config", None), "metric_groups", None)
    return groups is not None and bool(groups & type(groups)[group])
