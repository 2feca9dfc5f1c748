"""The tables of the local store, and how a database of an older version becomes one of this."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

from voicespan.local.part import gather_spans
from voicespan.local.row import find_turns
from voicespan.local.run import find_runs
from voicespan.local.trace import find_traces

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_RETRY_S = 0.01
BUSY_TIMEOUT_S = 5.0
APPLICATION_ID = 0x766F6963
"""Marks the file as ours: a database of another program is left alone."""


class StoreError(Exception):
    """The database cannot be used; the message says why and what to do."""


# One row per span, as it was sent (`body` is an OTLP span in protobuf), with the columns that are searched. Ids are
# blobs: half the size of hex, and the index is what limits how many spans a second can be stored.
_VERSION_1 = (
    """CREATE TABLE source (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        digest BLOB NOT NULL UNIQUE,
        service TEXT NOT NULL,
        scope TEXT NOT NULL,
        resource BLOB NOT NULL,
        instrumentation BLOB NOT NULL,
        used_s INTEGER NOT NULL
    )""",
    """CREATE TABLE span (
        id INTEGER PRIMARY KEY,
        trace_id BLOB NOT NULL,
        span_id BLOB NOT NULL,
        name TEXT NOT NULL,
        start_ns INTEGER NOT NULL,
        end_ns INTEGER NOT NULL,
        source INTEGER NOT NULL REFERENCES source (id),
        received_s INTEGER NOT NULL,
        body BLOB NOT NULL
    )""",
    "CREATE UNIQUE INDEX span_identity ON span (trace_id, span_id)",
    """CREATE TABLE turn (
        trace_id BLOB NOT NULL PRIMARY KEY,
        service TEXT NOT NULL,
        session_id TEXT,
        turn_index INTEGER,
        start_ns INTEGER NOT NULL,
        duration_ns INTEGER NOT NULL,
        complete INTEGER NOT NULL,
        outcome TEXT,
        no_reply_reason TEXT,
        initiator TEXT,
        trigger TEXT,
        input TEXT,
        error TEXT,
        bottleneck TEXT,
        response_ns INTEGER,
        unanswered INTEGER NOT NULL,
        response_from TEXT,
        answer_ns INTEGER,
        endpoint_ns INTEGER,
        asr_ns INTEGER,
        llm_ttft_ns INTEGER,
        sentence_ns INTEGER,
        tool_ns INTEGER,
        tts_first_audio_ns INTEGER,
        realtime_first_audio_ns INTEGER,
        playback_start_ns INTEGER,
        first_audio_ns INTEGER,
        silenced_ns INTEGER,
        model TEXT,
        voice TEXT,
        language TEXT,
        worker TEXT,
        transport TEXT,
        measurement_point TEXT,
        clock_error_ns INTEGER,
        shares TEXT NOT NULL,
        attributes TEXT NOT NULL
    )""",
    "CREATE INDEX turn_start ON turn (start_ns)",
    "CREATE INDEX turn_session ON turn (session_id, start_ns)",
)

# The shares of the silence become columns, which can be summed up without parsing text; a turn belongs to a run; other
# traces have a row of their own; log records and what was said stand beside the spans of their trace.
_VERSION_2 = (
    """CREATE TABLE run (
        id INTEGER PRIMARY KEY,
        key TEXT NOT NULL UNIQUE,
        service TEXT NOT NULL,
        name TEXT,
        instance TEXT,
        version TEXT,
        environment TEXT,
        started_ns INTEGER NOT NULL
    )""",
    "ALTER TABLE source ADD COLUMN run INTEGER REFERENCES run (id)",
    # Ids grow with each change and never come back: a reader that knows the last one finds what is new.
    """CREATE TABLE turn_2 (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        trace_id BLOB NOT NULL UNIQUE,
        service TEXT NOT NULL,
        run INTEGER REFERENCES run (id),
        session_id TEXT,
        turn_index INTEGER,
        start_ns INTEGER NOT NULL,
        duration_ns INTEGER NOT NULL,
        complete INTEGER NOT NULL,
        outcome TEXT,
        no_reply_reason TEXT,
        initiator TEXT,
        trigger TEXT,
        input TEXT,
        error TEXT,
        failed TEXT,
        failure TEXT,
        bottleneck TEXT,
        culprit TEXT,
        response_ns INTEGER,
        unanswered INTEGER NOT NULL,
        response_from TEXT,
        answer_ns INTEGER,
        endpoint_ns INTEGER,
        asr_ns INTEGER,
        llm_ttft_ns INTEGER,
        sentence_ns INTEGER,
        tool_ns INTEGER,
        tool TEXT,
        tts_first_audio_ns INTEGER,
        realtime_first_audio_ns INTEGER,
        playback_start_ns INTEGER,
        first_audio_ns INTEGER,
        silenced_ns INTEGER,
        model TEXT,
        voice TEXT,
        language TEXT,
        worker TEXT,
        transport TEXT,
        measurement_point TEXT,
        clock_error_ns INTEGER,
        share_endpoint_ns INTEGER,
        share_asr_ns INTEGER,
        share_llm_ns INTEGER,
        share_tool_ns INTEGER,
        share_sentence_ns INTEGER,
        share_tts_ns INTEGER,
        share_send_ns INTEGER,
        share_network_ns INTEGER,
        share_realtime_ns INTEGER,
        share_unattributed_ns INTEGER,
        attributes TEXT NOT NULL
    )""",
    """INSERT INTO turn_2 SELECT
        NULL, trace_id, service, NULL, session_id, turn_index, start_ns, duration_ns, complete, outcome,
        no_reply_reason, initiator, trigger, input, error, NULL, NULL, bottleneck, NULL, response_ns, unanswered,
        response_from, answer_ns, endpoint_ns, asr_ns, llm_ttft_ns, sentence_ns, tool_ns, NULL, tts_first_audio_ns,
        realtime_first_audio_ns, playback_start_ns, first_audio_ns, silenced_ns, model, voice, language, worker,
        transport, measurement_point, clock_error_ns,
        shares ->> 'endpoint', shares ->> 'asr', shares ->> 'llm', shares ->> 'tool', shares ->> 'sentence',
        shares ->> 'tts', shares ->> 'send', shares ->> 'network', shares ->> 'realtime', shares ->> 'unattributed',
        attributes
    FROM turn""",
    "DROP TABLE turn",
    "ALTER TABLE turn_2 RENAME TO turn",
    "CREATE INDEX turn_start ON turn (start_ns)",
    "CREATE INDEX turn_session ON turn (session_id, start_ns)",
    find_runs,
    """CREATE TABLE trace (
        trace_id BLOB NOT NULL PRIMARY KEY,
        name TEXT NOT NULL,
        service TEXT NOT NULL,
        rooted INTEGER NOT NULL,
        named_ns INTEGER NOT NULL,
        start_ns INTEGER NOT NULL,
        end_ns INTEGER NOT NULL,
        error INTEGER NOT NULL
    ) WITHOUT ROWID""",
    "CREATE INDEX trace_start ON trace (start_ns)",
    find_traces,
    """CREATE TABLE log (
        id INTEGER PRIMARY KEY,
        trace_id BLOB NOT NULL,
        digest BLOB NOT NULL,
        span_id BLOB,
        time_ns INTEGER NOT NULL,
        severity INTEGER NOT NULL,
        body TEXT NOT NULL,
        attributes TEXT NOT NULL,
        source INTEGER NOT NULL REFERENCES source (id),
        received_s INTEGER NOT NULL
    )""",
    "CREATE UNIQUE INDEX log_identity ON log (trace_id, digest)",
    """CREATE TABLE content (
        id INTEGER PRIMARY KEY,
        trace_id BLOB NOT NULL,
        role TEXT NOT NULL,
        received_s INTEGER NOT NULL,
        sample_rate INTEGER,
        text TEXT,
        audio BLOB
    )""",
    "CREATE UNIQUE INDEX content_identity ON content (trace_id, role)",
)

# A source knows the last row that it may have sent: arrivals are in order whatever the clock says. A run's id is never
# given again. The limits belong to the file: whoever opens it keeps to them.
_VERSION_3 = (
    "ALTER TABLE source ADD COLUMN last_span INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE source ADD COLUMN last_log INTEGER NOT NULL DEFAULT 0",
    """UPDATE source SET
        last_span = (SELECT ifnull(max(id), 0) FROM span),
        last_log = (SELECT ifnull(max(id), 0) FROM log)""",
    """CREATE TABLE run_3 (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        key TEXT NOT NULL UNIQUE,
        service TEXT NOT NULL,
        name TEXT,
        instance TEXT,
        version TEXT,
        environment TEXT,
        started_ns INTEGER NOT NULL
    )""",
    "INSERT INTO run_3 SELECT id, key, service, name, instance, version, environment, started_ns FROM run",
    "DROP TABLE run",
    "ALTER TABLE run_3 RENAME TO run",
    """CREATE TABLE retention (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        max_age_s INTEGER,
        max_bytes INTEGER
    )""",
    find_turns,
)

# The spans that came together of one trace and source become one row. `span_ids` are theirs one after the other,
# `body` is OTLP's ScopeSpans without the scope: who reads a trace reads few rows, and who stores one writes few.
_VERSION_4 = (
    """CREATE TABLE part (
        id INTEGER PRIMARY KEY,
        trace_id BLOB NOT NULL,
        source INTEGER NOT NULL REFERENCES source (id),
        received_s INTEGER NOT NULL,
        span_ids BLOB NOT NULL,
        body BLOB NOT NULL
    )""",
    "CREATE INDEX part_trace ON part (trace_id)",
    gather_spans,
    "DROP TABLE span",
    "ALTER TABLE source RENAME COLUMN last_span TO last_part",
)

Step: TypeAlias = "str | Callable[[sqlite3.Connection], object]"

MIGRATIONS: tuple[tuple[Step, ...], ...] = (_VERSION_1, _VERSION_2, _VERSION_3, _VERSION_4)
"""Statements and functions that lead from each version to the next; a released one is never changed. The version is
their number."""

VERSION = len(MIGRATIONS)


def open_for_writing(path: Path) -> sqlite3.Connection:
    """Open the database, make it when it does not exist, and bring it to this version.

    Raises:
        StoreError: it is no database, of a newer version, or cannot be opened or written.

    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # Made here, because SQLite would make it readable to everyone; its companion files get the same mode.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise StoreError(f"cannot open {path}: {error}") from None
    with _closed_on_error(path, "rw") as connection:
        _check_owner(connection, path)
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        _use_wal(connection)
        connection.execute("PRAGMA synchronous = NORMAL")  # a power cut may lose the last commits, never the database
        connection.execute("PRAGMA wal_autocheckpoint = 8000")
        connection.execute(f"PRAGMA journal_size_limit = {64 << 20}")
        connection.execute("PRAGMA cache_size = -32000")
        _migrate(connection, path)
    return connection


def open_for_reading(path: Path) -> sqlite3.Connection:
    """Open the database read-only, whether or not a receiver is writing to it.

    Raises:
        StoreError: there is no database, or it is not of this version.

    """
    if not path.exists():
        raise StoreError(f"there is no database at {path} yet")
    with _closed_on_error(path, "ro") as connection:
        _check_owner(connection, path)
        _check_version(connection, path, oldest=VERSION)
    return connection


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to the write-ahead log; unlike other statements, this does not wait for another process at the same."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_S)
        else:
            return


@contextmanager
def _closed_on_error(path: Path, mode: str) -> Iterator[sqlite3.Connection]:
    """Connect; where the block fails, close again and raise StoreError."""
    connection = None
    try:
        connection = _connect(path, mode)
        yield connection
    except BaseException as error:
        if connection is not None:
            connection.close()
        if isinstance(error, sqlite3.Error):
            raise StoreError(f"cannot use {path}: {error}") from None
        raise


def _check_owner(connection: sqlite3.Connection, path: Path) -> None:
    # Tables first: another process that makes them just now commits its mark together with them.
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (owner,) = connection.execute("PRAGMA application_id").fetchone()
    if tables and owner != APPLICATION_ID:
        raise StoreError(f"{path} is a database of another program")


def _check_version(connection: sqlite3.Connection, path: Path, *, oldest: int) -> int:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > VERSION:
        raise StoreError(f"{path} was written by a newer voicespan: update this one, or choose another database")
    if version < oldest:
        raise StoreError(f"{path} was written by an older voicespan: start `voicespan ui` once to bring it up to date")
    return version


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)


def _migrate(connection: sqlite3.Connection, path: Path) -> None:
    if _check_version(connection, path, oldest=0) == VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _check_version(connection, path, oldest=0)  # again, now that no other process can change it
        for step in (step for steps in MIGRATIONS[version:] for step in steps):
            if callable(step):
                step(connection)
            else:
                connection.execute(step)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
