"""Redis with a real server, of threads and of asyncio."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest
import redis
import redis.asyncio
from opentelemetry.trace import SpanKind, StatusCode
from redis.backoff import NoBackoff
from redis.retry import Retry

from voicespan.integrations.redis import RedisInstrumentor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from opentelemetry.sdk.trace import ReadableSpan

    from .conftest import Telemetry


@pytest.fixture
def port(redis_port: int) -> int:
    """The port of a real server."""
    return redis_port


@pytest.fixture(autouse=True)
def _instrumented(port: int) -> Iterator[None]:
    RedisInstrumentor().instrument()
    yield
    RedisInstrumentor().uninstrument()


@pytest.fixture
def client(port: int) -> Iterator[Any]:
    """A client of threads; what connecting asks of the server is no span."""
    with redis.Redis(port=port) as client:
        yield client


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


@pytest.mark.covers("C-M39", "F-TR22", "F-IN32", "F-AT14")
def test_a_command_is_a_span_and_a_measurement(telemetry: Telemetry, client: Any, port: int) -> None:
    """Each command is a client span named by it, with the server's address and no argument, and a duration."""
    client.set("name", "secret")
    client.hgetall("nobody")
    client.keys("secret*")
    spans = telemetry.wait(3)
    assert [span.name for span in spans] == ["SET", "HGETALL", "KEYS"]
    assert all(span.kind is SpanKind.CLIENT for span in spans)
    assert attributes(spans[0]) == {
        "db.system.name": "redis",
        "db.operation.name": "SET",
        "db.namespace": "0",
        "server.address": "localhost",
        "server.port": port,
    }
    points = {
        point.attributes["db.operation.name"]: point for point in telemetry.points("db.client.operation.duration")
    }
    assert set(points) == {"SET", "HGETALL", "KEYS"}
    assert all(point.count == 1 and 0 < point.sum < 10 for point in points.values())


@pytest.mark.covers("C-M40")
def test_a_command_that_fails(telemetry: Telemetry, client: Any) -> None:
    """A server's refusal is an error with its first word; the failure is measured under its class."""
    client.set("name", "text")
    with pytest.raises(redis.ResponseError):
        client.lpush("name", "item")
    failed = telemetry.wait(2)[1]
    assert failed.status.status_code is StatusCode.ERROR
    assert attributes(failed)["error.type"] == "ResponseError"
    points = {
        point.attributes["db.operation.name"]: point for point in telemetry.points("db.client.operation.duration")
    }
    assert points["LPUSH"].attributes["error.type"] == "ResponseError"
    assert "error.type" not in points["SET"].attributes


@pytest.mark.covers("C-M40")
def test_a_server_that_is_gone(telemetry: Telemetry) -> None:
    """A connection that is refused is an error of the command."""
    with redis.Redis(port=1, retry=Retry(NoBackoff(), 0)) as client, pytest.raises(redis.ConnectionError):
        client.get("name")
    (span,) = telemetry.wait(1)
    assert attributes(span)["error.type"] == "ConnectionError"


def test_a_pipeline_is_one_span(telemetry: Telemetry, client: Any) -> None:
    """A pipeline is one span with a short name and the number of its commands; an empty one is none."""
    with client.pipeline(transaction=False) as pipeline:
        pipeline.set("a", 1)
        pipeline.get("a")
        pipeline.execute()
        pipeline.execute()
    with client.pipeline() as pipeline:
        pipeline.incr("a").incr("a").execute()
    several, same = telemetry.wait(2)
    assert (several.name, same.name) == ("PIPELINE", "MULTI INCRBY")
    assert attributes(several)["db.operation.batch.size"] == attributes(same)["db.operation.batch.size"] == 2


def test_a_key_that_has_changed_is_no_error(telemetry: Telemetry, client: Any, port: int) -> None:
    """A transaction that must be tried again is an answer of the server; its WATCH is a span too."""
    with client.pipeline() as pipeline, redis.Redis(port=port) as other:
        pipeline.watch("counter")
        pipeline.multi()
        pipeline.incr("counter")
        other.incr("counter")
        with pytest.raises(redis.WatchError):
            pipeline.execute()
    watch, *_, execute = telemetry.wait(3)
    assert watch.name == "WATCH"
    assert execute.name == "MULTI INCRBY" or "MULTI INCRBY" in [span.name for span in telemetry.spans]
    assert all(span.status.status_code is StatusCode.UNSET for span in telemetry.spans)


async def test_asyncio(telemetry: Telemetry, port: int) -> None:
    """With asyncio, commands, pipelines and failures are the same; what is cancelled is ended and no error."""
    client: Any
    async with redis.asyncio.Redis(port=port) as client:
        await client.set("name", "text")
        async with client.pipeline(transaction=False) as pipeline:
            await pipeline.get("name").get("name").execute()
        with pytest.raises(redis.ResponseError):
            await client.lpush("name", "item")
        task = asyncio.ensure_future(client.blpop(["empty"], 20))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    spans = telemetry.wait(4)
    assert [span.name for span in spans] == ["SET", "PIPELINE GET", "LPUSH", "BLPOP"]
    assert [span.status.status_code for span in spans] == [StatusCode.UNSET] * 2 + [StatusCode.ERROR, StatusCode.UNSET]
    assert spans[3].end_time is not None


def states(telemetry: Telemetry, port: int, db: int) -> dict[str, int]:
    """Return the connections by state; pools of other tests may be there still."""
    return {
        point.attributes["db.client.connection.state"]: point.value
        for point in telemetry.points("db.client.connection.count")
        if point.attributes["db.client.connection.pool.name"] == f"localhost:{port}/{db}"
    }


@pytest.mark.covers("C-M38", "C-E03", "F-OB08")
@pytest.mark.parametrize(("kind", "db"), [(redis.ConnectionPool, 3), (redis.BlockingConnectionPool, 4)])
def test_the_connections_of_a_pool(telemetry: Telemetry, port: int, kind: type[redis.ConnectionPool], db: int) -> None:
    """The pool's connections are counted when metrics are collected, in use and idle, by host, port and number."""
    pool = kind(host="localhost", port=port, db=db, max_connections=5)
    client = redis.Redis(connection_pool=pool)
    client.ping()
    assert states(telemetry, port, db) == {"used": 0, "idle": 1}
    waiting = threading.Thread(target=client.blpop, args=(["empty"], 1))
    waiting.start()
    telemetry.until(lambda: states(telemetry, port, db)["used"] == 1)
    assert states(telemetry, port, db) == {"used": 1, "idle": 0}
    waiting.join()
    pool.disconnect()


@pytest.mark.covers("C-M38")
async def test_the_connections_of_an_asyncio_pool(telemetry: Telemetry, port: int) -> None:
    """The same with asyncio."""
    async with redis.asyncio.Redis(host="localhost", port=port, db=5) as client:
        await asyncio.gather(client.ping(), client.ping())
        assert states(telemetry, port, 5) == {"used": 0, "idle": 2}
