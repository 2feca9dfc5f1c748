"""The commands that need the local store: `voicespan ui`, `voicespan turns`, `voicespan show`."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections import deque
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from voicespan.local import view
from voicespan.local.browser import open_page
from voicespan.local.listing import turn_line, turn_table
from voicespan.local.reader import INCOMPLETE, SORT_COLUMNS, Reader, TurnQuery, UnknownTurnError
from voicespan.local.retention import Retention
from voicespan.local.schema import StoreError
from voicespan.local.store import default_database
from voicespan.local.words import NS_PER_MS
from voicespan.render import render_turn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from voicespan.local.server import Receiver
    from voicespan.local.turn import Turn

_DAY_S = 86_400
_MIB = 1 << 20
_OUTCOMES = ("completed", "interrupted", "error", "timeout", "no_reply", INCOMPLETE)
_PIPE_WIDTH = 120

_POSITIVE = click.FloatRange(min=0, min_open=True)

_database_option = click.option(
    "--db",
    "database",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The database.  [default: VOICESPAN_DB, else voicespan.db in the user's state directory]",
)
_json_option = click.option("--json", "as_json", is_flag=True, help="JSON instead of a picture; lengths in seconds.")


@click.command()
@click.option("--port", default=4318, show_default=True, help="Where to listen; the next free port when it is taken.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--allow-host", "allowed_hosts", multiple=True, help="Another host name to answer to, besides localhost.")
@_database_option
@click.option(
    "--keep-days", type=_POSITIVE, default=14, show_default=True, help="Forget turns that are older than this."
)
@click.option(
    "--keep-mib", type=_POSITIVE, default=1024, show_default=True, help="Forget the oldest turns beyond this size."
)
@click.option("--no-browser", is_flag=True, help="Do not open the page in the browser.")
def ui(
    *,
    port: int,
    host: str,
    allowed_hosts: tuple[str, ...],
    database: Path | None,
    keep_days: float,
    keep_mib: float,
    no_browser: bool,
) -> None:
    """Receive turns on this machine and show them: a page in the browser, and a line here for each. Ctrl-C ends it."""
    from voicespan.local.server import Receiver

    receiver = Receiver(
        port=port,
        host=host,
        allowed_hosts=allowed_hosts,
        database=database or default_database(),
        retention=Retention(max_age_s=int(keep_days * _DAY_S), max_bytes=int(keep_mib * _MIB)),
    )
    console = _console()
    with _errors(), stop_signal() as stopped, receiver:
        end = receiver.store.listen(_Announcer(console))  # first: whoever reads the address may send at once
        _introduce(receiver, console)
        if not no_browser:
            open_page(receiver.endpoint)
        stopped.wait()
        end()


@click.command()
@_database_option
@click.option("--session", help="Only turns of this session.")
@click.option("--outcome", type=click.Choice(_OUTCOMES), help="Only turns that ended so.")
@click.option("--slower-than", type=float, metavar="MS", help="Only turns whose heard silence was longer.")
@click.option(
    "--sort", type=click.Choice(tuple(SORT_COLUMNS)), default="start", show_default=True, help="Largest first."
)
@click.option("--limit", type=click.IntRange(1, 20_000), default=30, show_default=True, help="At most so many.")
@_json_option
def turns(
    *,
    database: Path | None,
    session: str | None,
    outcome: str | None,
    slower_than: float | None,
    sort: str,
    limit: int,
    as_json: bool,
) -> None:
    """List the turns of the local store, the newest first."""
    slower_than_ns = None if slower_than is None else round(slower_than * NS_PER_MS)
    query = TurnQuery(session=session, outcome=outcome, slower_than_ns=slower_than_ns, sort=sort, limit=limit)
    with _errors():
        found = Reader(database or default_database()).turns(query)
    if as_json:
        click.echo(json.dumps([view.turn(turn) for turn in found], indent=2))
    elif found:
        console = _console()
        console.print(turn_table(found, sort, console))
    else:
        click.echo("No turn matches.")


@click.command()
@click.argument("trace", metavar="TRACE_PREFIX|last", default="last")
@_database_option
@_json_option
def show(*, trace: str, database: Path | None, as_json: bool) -> None:
    """Draw one turn: why the user waited, and the waterfall of its spans."""
    reader = Reader(database or default_database())
    with _errors():
        trace_id = reader.find(trace)
        spans = reader.spans(trace_id)
        turn = reader.turn(trace_id)
    if as_json:
        click.echo(json.dumps(view.trace(trace_id, turn, spans), indent=2))
    else:
        render_turn(spans, _console())


@contextmanager
def _errors() -> Iterator[None]:
    """End the command with status 1 and the reason where the store or the trace is not there."""
    try:
        yield
    except (StoreError, UnknownTurnError) as error:
        hint = ": start `voicespan ui`, then point a service at it" if "no database" in str(error) else ""
        raise click.ClickException(f"{error}{hint}") from None
    except OSError as error:
        raise click.ClickException(f"cannot listen: {error}") from None


@contextmanager
def stop_signal() -> Iterator[threading.Event]:
    """Give an event that SIGINT and SIGTERM set."""
    stopped = threading.Event()

    def stop(_: int, __: FrameType | None) -> None:
        stopped.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _introduce(receiver: Receiver, console: Console) -> None:
    if receiver.moved:
        click.echo(f"voicespan: {receiver.moved}; using port {receiver.port}", err=True)
    count = receiver.store.reader.count()
    lines = (
        f"voicespan receives OTLP over HTTP at [bold]{receiver.endpoint}[/]",
        f"  database   {receiver.store.path} ({count:,} turn{'' if count == 1 else 's'})",
        f"  to send    OTEL_EXPORTER_OTLP_ENDPOINT={receiver.endpoint} voicespan run -- python bot.py",
        f"  to look    {receiver.endpoint}/ in the browser, or: voicespan turns, voicespan show last",
        "",
    )
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
    sys.stdout.flush()


class _Announcer:
    """Writes a line for each turn, once: spans of a worker may arrive later and change its row."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.seen: deque[str] = deque(maxlen=1000)

    def __call__(self, changed: list[Turn]) -> None:
        for turn in changed:
            if turn.complete and turn.trace_id not in self.seen:
                self.seen.append(turn.trace_id)
                self.console.print(turn_line(turn), soft_wrap=True)


def _console() -> Console:
    # Without a terminal, rich would take 80 columns: too few for a list that is read in a file.
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _PIPE_WIDTH
    return Console(file=sys.stdout, width=width)
