"""The commands that need the local store: `voicespan ui`, `turns`, `show`, `export` and `import`."""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from collections import deque
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click
from rich.console import Console
from rich.progress import Progress

from voicespan import settings
from voicespan.local import view
from voicespan.local.browser import open_page
from voicespan.local.form import MalformedRequestError
from voicespan.local.intake import Intake
from voicespan.local.listing import turn_line, turn_table
from voicespan.local.options import Options, complaints, kept, place, send_variables
from voicespan.local.query import CONDITIONS, SORT_COLUMNS, TurnQuery
from voicespan.local.reader import Reader, UnknownTurnError
from voicespan.local.schema import StoreError
from voicespan.local.store import MEMORY, Store, default_database
from voicespan.local.transfer import Imported, exported, pieces_of, take_bytes, traces
from voicespan.local.words import NS_PER_MS
from voicespan.render import render_turn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from voicespan.local.server import Receiver
    from voicespan.local.turn import Turn

_OUTCOMES = ("completed", "interrupted", "error", "timeout", "no_reply", *CONDITIONS)
_PIPE_WIDTH = 120
_MAX_LINES = 1000

_PORT = click.IntRange(0, 65_535)
_POSITIVE = click.FloatRange(min=0, min_open=True)

_database_option = click.option(
    "--db",
    "database",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The database; `:memory:` is one that is gone when its viewer ends.  "
    "[default: VOICESPAN_DB, else voicespan.db in the user's state directory]",
)
_json_option = click.option("--json", "as_json", is_flag=True, help="JSON instead of a picture; lengths in seconds.")


@click.command()
@click.option(
    "--port", type=_PORT, default=4318, show_default=True, help="Where to listen; the next free port when it is taken."
)
@click.option(
    "--grpc-port", type=_PORT, default=4317, show_default=True, help="Where to listen for OTLP over gRPC; 0 is nowhere."
)
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--allow-host", "allowed_hosts", multiple=True, help="Another host name to answer to, besides localhost.")
@click.option(
    "--token",
    help="Asked of everyone who sends or looks. Made at the start where other machines can reach the address.  "
    "[default: VOICESPAN_TOKEN]",
)
@_database_option
@click.option(
    "--keep-days",
    type=_POSITIVE,
    help="Forget turns that are older than this.  [default: VOICESPAN_KEEP_DAYS, else as before; at first 14]",
)
@click.option(
    "--keep-mib",
    type=_POSITIVE,
    help="Forget the oldest turns beyond this size.  [default: VOICESPAN_KEEP_MIB, else as before; at first 1024]",
)
@click.option("--content", is_flag=True, help="Keep what is said: transcripts, prompts, audio.  [VOICESPAN_CONTENT]")
@click.option(
    "--trace-link",
    metavar="URL",
    help="Where a trace is in another program, with {trace_id} in the address.  [default: VOICESPAN_TRACE_LINK]",
)
@click.option("--forward", metavar="URL", help="Hand everything on, as it came, to this OTLP endpoint as well.")
@click.option("--no-browser", is_flag=True, help="Do not open the page in the browser.")
def ui(*, no_browser: bool, **options: Any) -> None:
    """Receive turns on this machine and show them: a page in the browser, and a line here for each. Ctrl-C ends it."""
    receiver = Options(**options).receiver()
    console = _console()
    with _errors("listen"), stop_signal() as stopped, receiver:
        end = receiver.store.listen(_Announcer())  # first: whoever reads the address may send at once
        _introduce(receiver, console)
        if not no_browser:
            open_page(receiver.page)
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
    if not spans and not as_json:
        raise click.ClickException(f"trace {trace_id} has log records only: open it on the page of `voicespan ui`")
    if as_json:
        click.echo(json.dumps(view.trace(trace_id, turn, spans), indent=2))
    else:
        render_turn(spans, _console())


@click.command(name="export")
@click.argument("trace", metavar="[TRACE_PREFIX|last]", required=False)
@click.option("--session", help="All turns of this session.")
@click.option("--all", "everything", is_flag=True, help="Everything in the store.")
@click.option("--content", is_flag=True, help="With what was said, where the store has it.")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, allow_dash=True), default="-", help="[default: standard output]"
)
@_database_option
def export_file(
    *, trace: str | None, session: str | None, everything: bool, content: bool, output: str, database: Path | None
) -> None:
    """Write turns, with all their spans and log records, as OTLP JSON: `voicespan import` reads it, and others do."""
    if sum((trace is not None, session is not None, everything)) != 1:
        raise click.UsageError("say what to export: a trace, --session ID, or --all")
    reader = Reader(database or default_database())
    parameters = {"trace": trace, "session": session}
    with _errors("write"):
        found = traces(reader, {key: value for key, value in parameters.items() if value is not None})
        if not found:
            raise click.ClickException("no turn matches")
        with click.open_file(output, "w", encoding="utf-8") as file, _progress() as progress:
            written = exported(reader, found, content=content)
            for part in progress.track(written, total=pieces_of(found), description="exporting"):
                file.write(part)
    click.echo(f"{len(found):,} trace{'' if len(found) == 1 else 's'}", err=True)


@click.command(name="import")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(dir_okay=False, exists=True))
@click.option("--content", is_flag=True, help="Keep what was said, where a file has it.  [VOICESPAN_CONTENT]")
@_database_option
def import_files(*, files: tuple[str, ...], content: bool, database: Path | None) -> None:
    """Take files of OTLP JSON into the store. What is there already stays as it is."""
    path = database or default_database()
    if str(path) in MEMORY:
        raise click.UsageError("what is imported into memory is gone at once: name a file with --db")
    with _errors(), Store(path) as store:
        intake = Intake(store, content=content or settings.current().content)
        try:
            for name in files:
                _import(name, intake)
        finally:
            intake.close()


def _import(name: str, intake: Intake) -> None:
    imported = Imported()
    try:
        with _progress() as progress, progress.open(name, "rb", description=Path(name).name) as file:
            take_bytes(file, intake, imported)
    except MalformedRequestError as malformed:
        raise click.ClickException(f"{name}: {malformed} ({_said(imported)} before that)") from None
    click.echo(f"{name}: {_said(imported)}")


def _said(imported: Imported) -> str:
    words = f"{imported.spans:,} spans, {imported.logs:,} log records"
    if imported.rejected:
        words += f"; {imported.rejected:,} made no sense: {imported.reason}"
    if imported.content:
        words += f"; {imported.content:,} values with what was said were left out (--content keeps them)"
    return words


def _progress() -> Progress:
    return Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())


@contextmanager
def _errors(doing: str = "read") -> Iterator[None]:
    """End the command with status 1 and the reason where the store, the trace or what it does is not possible."""
    try:
        yield
    except (StoreError, UnknownTurnError) as error:
        hint = ": start `voicespan ui`, then point a service at it" if "no database" in str(error) else ""
        raise click.ClickException(f"{error}{hint}") from None
    except OSError as error:
        raise click.ClickException(f"cannot {doing}: {error}") from None


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
    for complaint in complaints(receiver):
        click.echo(f"voicespan: {complaint}", err=True)
    count = receiver.store.reader.count()
    turns = f"{count:,} turn{'' if count == 1 else 's'}"
    lines = (
        f"voicespan receives OTLP over HTTP at {receiver.reachable}",
        f"  over gRPC  {receiver.grpc.endpoint or receiver.grpc.say or 'nowhere (--grpc-port)'}",
        f"  database   {place(receiver.store)} ({turns}), {kept(receiver.store.retention)}",
        f"  content    transcripts, prompts and audio are {'kept' if receiver.content else 'not kept (--content)'}",
        f"  to send    {send_variables(receiver)} voicespan run -- python bot.py",
        f"  to look    {receiver.page} in the browser, or: voicespan turns, voicespan show last",
        "",
    )
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True, markup=False)
    sys.stdout.flush()


class _Announcer:
    """Writes a line for each turn, once: spans of a worker may arrive later and change its row.

    It writes from a thread of its own. A terminal that is stopped, or a pipe that nobody reads, then keeps no sender
    waiting; what does not fit meanwhile is not written.
    """

    def __init__(self) -> None:
        # A file of its own: at the end of the process nobody waits for the lock of one that is stuck.
        own = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding=sys.stdout.encoding, errors="replace")
        self.console = _console(own)
        self.seen: deque[str] = deque(maxlen=1000)
        self.waiting: queue.Queue[Turn] = queue.Queue(_MAX_LINES)
        threading.Thread(target=self._write, name="voicespan-announcer", daemon=True).start()

    def __call__(self, changed: list[Turn]) -> None:
        for turn in changed:
            if turn.complete and turn.trace_id not in self.seen:
                self.seen.append(turn.trace_id)
                with suppress(queue.Full):
                    self.waiting.put_nowait(turn)

    def _write(self) -> None:
        while True:
            self.console.print(turn_line(self.waiting.get()), soft_wrap=True)
            self.console.file.flush()


def _console(file: TextIO | None = None) -> Console:
    # Without a terminal, rich would take 80 columns: too few for a list that is read in a file.
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _PIPE_WIDTH
    return Console(file=file or sys.stdout, width=width)
