"""A run: the start of a service, or what was given a name with VOICESPAN_RUN, so that two of them can be compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from voicespan import names as n

if TYPE_CHECKING:
    import sqlite3

_SERVICE_VERSION = "service.version"


class Run(NamedTuple):
    """What a resource says about the run that it belongs to."""

    service: str
    name: str | None
    instance: str | None
    version: str | None
    environment: str | None

    @property
    def key(self) -> str:
        """What is one and the same run: a name joins the starts of a service, without one each start is its own."""
        kind, value = ("name", self.name) if self.name else ("instance", self.instance or "")
        return f"{kind}\0{self.service}\0{value}"


def run_of(service: str, resource: bytes) -> Run:
    """Return the run that a resource (as OTLP sends it) belongs to."""
    said = {pair.key: pair.value.string_value or None for pair in Resource.FromString(resource).attributes}
    keys = (n.VOICESPAN_RUN, n.SERVICE_INSTANCE_ID, _SERVICE_VERSION, n.DEPLOYMENT_ENVIRONMENT_NAME)
    return Run(service, *map(said.get, keys))


def keep_run(connection: sqlite3.Connection, run: Run, started_ns: int) -> int:
    """Store a run that something was received of, and return its id; of a named one, what its last start said."""
    row = connection.execute(
        "INSERT INTO run (key, service, name, instance, version, environment, started_ns) VALUES (?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (key) DO UPDATE SET instance = excluded.instance, version = excluded.version,"
        " environment = excluded.environment, started_ns = min(started_ns, excluded.started_ns) RETURNING id",
        [run.key, *run, started_ns],
    ).fetchall()
    return int(row[0][0])


def find_runs(connection: sqlite3.Connection) -> None:
    """Give each source and each turn of a store that knew no runs the run that it belongs to."""
    sources = connection.execute(
        "SELECT source.id, service, resource, min(start_ns) FROM span JOIN source ON source.id = span.source"
        " GROUP BY source.id ORDER BY min(start_ns)"
    ).fetchall()
    for identity, service, resource, started_ns in sources:
        run = keep_run(connection, run_of(service, resource), started_ns)
        connection.execute("UPDATE source SET run = ? WHERE id = ?", [run, identity])
    connection.execute(
        "UPDATE turn SET run = (SELECT source.run FROM span JOIN source ON source.id = span.source"
        " WHERE span.trace_id = turn.trace_id AND source.scope = 'voicespan'"
        " ORDER BY span.name <> 'voice.turn', span.start_ns, span.end_ns DESC LIMIT 1)"
    )
