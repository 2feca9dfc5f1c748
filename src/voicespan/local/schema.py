"""The tables of the local store, and how a database of an older version becomes one of this."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
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

MIGRATIONS: tuple[tuple[str, ...], ...] = (_VERSION_1,)
"""Statements that lead from each version to the next; a released one is never changed. The version is their number."""

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
        for statement in (statement for statements in MIGRATIONS[version:] for statement in statements):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
