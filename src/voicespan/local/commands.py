"""The commands about stored turns: `voicespan ui`, `turns`, `show`, `export` and `import`."""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from collections import deque
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from voicespan import settings
from voicespan.local import view
from voicespan.local.browser import open_page
from voicespan.local.form import MalformedRequestError
from voicespan.local.intake import Intake
from voicespan.local.listing import turn_line, turn_table
from voicespan.local.options import Options, complaints, kept, place, send_variables
from voicespan.local.origin import Local
from voicespan.local.query import MAX_LIMIT, SORT_COLUMNS, TurnQuery
from voicespan.local.store import MEMORY, Store, default_database
from voicespan.local.table import table
from voicespan.local.terminal import (
    console,
    database_option,
    errors,
    filter_options,
    json_option,
    origin_options,
    progress,
)
from voicespan.local.transfer import Imported, exported, of_query, pieces_of, take_bytes
from voicespan.render import render_turn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from rich.console import Console

    from voicespan.local.origin import Origin
    from voicespan.local.server import Receiver
    from voicespan.local.turn import Turn

_MAX_LINES = 1000

_PORT = click.IntRange(0, 65_535)
_POSITIVE = click.FloatRange(min=0, min_open=True)


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
@database_option
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
    shown = console()
    with errors("listen"), stop_signal() as stopped, receiver:
        end = receiver.store.listen(_Announcer())  # first: whoever reads the address may send at once
        _introduce(receiver, shown)
        if not no_browser:
            open_page(receiver.page)
        stopped.wait()
        end()


@click.command()
@origin_options
@filter_options(times=True)
@click.option(
    "--sort", type=click.Choice(tuple(SORT_COLUMNS)), default="start", show_default=True, help="Largest first."
)
@click.option("--limit", type=click.IntRange(1, MAX_LIMIT), default=30, show_default=True, help="At most so many.")
@json_option
def turns(*, origin: Origin, filters: dict[str, Any], sort: str, limit: int, as_json: bool) -> None:
    """List turns: the newest first, or the slowest with `--sort response`, or of one stage with `--sort asr`."""
    with errors(), origin.turns(TurnQuery(**filters, sort=sort, limit=limit)) as (reader, query):
        found = reader.turns(query)
    if as_json:
        click.echo(json.dumps([view.turn(turn) for turn in found], indent=2))
    elif found:
        shown = console()
        shown.print(turn_table(found, sort, shown))
    else:
        click.echo("No turn matches.")


@click.command()
@click.argument("trace", metavar="TRACE_PREFIX|last", default="last")
@origin_options
@json_option
def show(*, trace: str, origin: Origin, as_json: bool) -> None:
    """Draw one turn: why the user waited, and the waterfall of its spans."""
    with errors(), origin.trace(trace) as (reader, trace_id):
        spans, turn, scores = reader.spans(trace_id), reader.turn(trace_id), reader.scores(trace_id)
    if not spans and not as_json:
        raise click.ClickException(f"trace {trace_id} has log records only: open it on the page of `voicespan ui`")
    if as_json:
        click.echo(json.dumps(view.trace(trace_id, turn, spans, scores), indent=2))
    else:
        render_turn(spans, console(), scores)


@click.command(name="export")
@click.argument("trace", metavar="[TRACE_PREFIX|last]", required=False)
@origin_options
@filter_options(times=True)
@click.option("--all", "everything", is_flag=True, help="Everything in the store.")
@click.option("--csv", "as_csv", is_flag=True, help="A table with a row for each turn; lengths in seconds.")
@click.option("--content", is_flag=True, help="With what was said, where the local store has it.")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, allow_dash=True), default="-", help="[default: standard output]"
)
def export_file(
    *,
    trace: str | None,
    origin: Origin,
    filters: dict[str, Any],
    everything: bool,
    as_csv: bool,
    content: bool,
    output: str,
) -> None:
    """Write turns as a file: OTLP JSON with all their spans and log records, or a table.

    `voicespan import` reads the OTLP JSON, and others do.
    """
    if sum((trace is not None, bool(filters), everything)) != 1:
        raise click.UsageError("say what to export: a trace, --session ID or other filters, or --all")
    if content and (as_csv or not isinstance(origin, Local)):
        raise click.UsageError("--content is for OTLP JSON from the local store: what was said leaves no machine")
    with errors("write"), ExitStack() as opened:
        query = TurnQuery(**filters, ascending=True, limit=MAX_LIMIT)
        if trace is not None:
            reader, trace_id = opened.enter_context(origin.trace(trace))
            trace_ids = [bytes.fromhex(trace_id)]
        else:
            reader, query = opened.enter_context(origin.turns(query))
            trace_ids = of_query(reader, None if everything else query)
        if not trace_ids:
            raise click.ClickException("no turn matches")
        with click.open_file(output, "w", encoding="utf-8") as file, progress() as shown:
            if as_csv:
                written: Iterator[str] = table(reader, trace_ids)
                pieces = len(trace_ids)
            else:
                written, pieces = exported(reader, trace_ids, content=content), pieces_of(trace_ids)
            for part in shown.track(written, total=pieces, description="exporting"):
                file.write(part)
    click.echo(f"{len(trace_ids):,} trace{'' if len(trace_ids) == 1 else 's'}", err=True)


@click.command(name="import")
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path(dir_okay=False, exists=True))
@click.option("--content", is_flag=True, help="Keep what was said, where a file has it.  [VOICESPAN_CONTENT]")
@database_option
def import_files(*, files: tuple[str, ...], content: bool, database: Path | None) -> None:
    """Take files of OTLP JSON into the store. What is there already stays as it is."""
    path = database or default_database()
    if str(path) in MEMORY:
        raise click.UsageError("what is imported into memory is gone at once: name a file with --db")
    with errors(), Store(path) as store:
        intake = Intake(store, content=content or settings.current().content)
        try:
            for name in files:
                _import(name, intake)
        finally:
            intake.close()


def _import(name: str, intake: Intake) -> None:
    imported = Imported()
    try:
        with progress() as shown, shown.open(name, "rb", description=Path(name).name) as file:
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


def _introduce(receiver: Receiver, shown: Console) -> None:
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
        shown.print(line, highlight=False, soft_wrap=True, markup=False)
    sys.stdout.flush()


class _Announcer:
    """Writes a line for each turn, once: spans of a worker may arrive later and change its row.

    It writes from a thread of its own. A terminal that is stopped, or a pipe that nobody reads, then keeps no sender
    waiting; what does not fit meanwhile is not written.
    """

    def __init__(self) -> None:
        # A file of its own: at the end of the process nobody waits for the lock of one that is stuck.
        own = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding=sys.stdout.encoding, errors="replace")
        self.console = console(own)
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
