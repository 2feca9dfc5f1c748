"""`voicespan latency-test`: the options, the progress, and the end."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import wave
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from voicespan.demo import pcm, scenarios, telephone
from voicespan.latency.call import Manners, Outcome, make_calls
from voicespan.latency.gateway import GatewayPhone
from voicespan.latency.report import Report, regressions

if TYPE_CHECKING:
    from collections.abc import Callable

    from voicespan.latency.call import Phone

QUESTION = scenarios.named("plain").question
_SLOWEST = 3
_MONO_16_BIT = (1, 2)


@click.command("latency-test")
@click.argument("url", required=False)
@click.option("--calls", default=100, show_default=True, type=click.IntRange(1), help="How many calls to make.")
@click.option("--target", "target_ms", default=600.0, show_default=True, help="Milliseconds to answer in, on average.")
@click.option("--at-once", default=1, show_default=True, type=click.IntRange(1), help="How many calls at a time.")
@click.option(
    "--protocol", type=click.Choice(["voicespan", "twilio", "livekit"]), default="voicespan", show_default=True,
    help="What is spoken at URL: the messages of the reference agent, the media streams of a telephone gateway, or "
    "LiveKit's signals, which lead into a room.",
)  # fmt: skip
@click.option("--agent", default="", help="Whom to send into the LiveKit room: the agent_name of its worker.")
@click.option("--say", "text", default=QUESTION, show_default=True, help="The question, spoken by a synthesizer.")
@click.option(
    "--audio", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The question as a WAV file, mono with 16 bits.",
)  # fmt: skip
@click.option("--greeting", "greeting_s", default=3.0, show_default=True, help="Seconds to wait for a greeting.")
@click.option("--patience", "patience_s", default=10.0, show_default=True, help="Seconds to wait for an answer.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with every call, in place of the report.")
@click.option("--save", type=click.Path(dir_okay=False, path_type=Path), help="Write that JSON to a file: a baseline.")
@click.option(
    "--baseline", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Also fail where a metric is worse than in this file by more than its tolerance.",
)  # fmt: skip
def latency_test(
    *,
    url: str | None,
    calls: int,
    target_ms: float,
    at_once: int,
    protocol: str,
    agent: str,
    text: str,
    audio: Path | None,
    as_json: bool,
    save: Path | None,
    baseline: Path | None,
    **patience: float,
) -> None:
    """Call the agent at URL (ws://HOST:PORT/call) many times, and say how long its callers wait.

    With --protocol livekit URL is the server's (wss://HOST, else LIVEKIT_URL), and LIVEKIT_API_KEY and
    LIVEKIT_API_SECRET are its credentials.

    Each call is a real one with real sound: the caller hears the greeting out, asks, and measures in what it heard the
    silence from the end of its question to the first sound of the answer. The exit status is 0 when the average is
    below the target, 1 when it is not or something became worse than the baseline.
    """
    dial = _in_rooms(url, agent, patience["patience_s"]) if protocol == "livekit" else _at(url, protocol, agent)
    manners = Manners(question=_question(text, audio), **patience)

    with _progress() as progress:
        task = progress.add_task("calls", total=calls, last="")

        def told(outcome: Outcome) -> None:
            last = outcome.problem or f"{(outcome.latency_s or 0) * 1e3:.0f} ms"
            progress.update(task, advance=1, last=last)

        try:
            report = Report(asyncio.run(make_calls(dial, calls, manners, at_once=at_once, told=told)), target_ms)
        except KeyboardInterrupt:
            click.echo("Aborted!", err=True)
            _leave(1)
    click.echo(json.dumps(report.data(), indent=1) if as_json else report.text())
    _explain(report)
    if save is not None:
        save.write_text(json.dumps(report.data(), indent=1) + "\n", encoding="utf-8")
    worse = [] if baseline is None else _compared(report, baseline)
    for sentence in worse:
        click.echo(f"voicespan latency-test: worse than {baseline}: {sentence}", err=True)
    _leave(0 if report.passed and not worse else 1)


def _at(url: str | None, protocol: str, agent: str) -> Callable[[int], Phone]:
    """Return what dials a WebSocket."""
    if url is None:
        raise click.UsageError("Missing argument 'URL'.")
    if agent:
        raise click.BadParameter("agents are sent into rooms, with --protocol livekit", param_hint="--agent")
    phone = GatewayPhone if protocol == "twilio" else telephone.Telephone
    return lambda number: phone(url, seed=number)


def _in_rooms(url: str | None, agent: str, patience_s: float) -> Callable[[int], Phone]:
    """Return what calls in a LiveKit room."""
    try:
        from voicespan.latency.room import RoomPhone, Server
    except ModuleNotFoundError as error:
        needs = f"--protocol livekit needs: pip install 'voicespan[livekit]' (no module {error.name!r})"
        raise click.UsageError(needs) from None
    told = {"LIVEKIT_URL": url or os.environ.get("LIVEKIT_URL", "")}
    told |= {name: os.environ.get(name, "") for name in ("LIVEKIT_API_KEY", "LIVEKIT_API_SECRET")}
    missing = [name for name, value in told.items() if not value]
    if missing:
        raise click.UsageError(f"--protocol livekit needs {', '.join(missing)} in the environment")
    if not told["LIVEKIT_URL"].startswith(("ws://", "wss://", "http://", "https://")):
        raise click.BadParameter(f"{told['LIVEKIT_URL']} is no address of a server: wss://HOST", param_hint="URL")
    return lambda number: RoomPhone(Server(*told.values()), agent=agent, patience_s=patience_s, seed=number)


def _leave(status: int) -> NoReturn:
    """End the process; at once where native threads would abort it on the way."""
    room = sys.modules.get("voicespan.latency.room")
    if room is not None and room.RoomPhone.started:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    return Progress(*columns, TextColumn("{task.fields[last]}"), console=console, disable=not console.is_terminal)


def _question(text: str, audio: Path | None) -> bytes:
    """Return the question as sound at 16 kHz."""
    if audio is None:
        from voicespan.demo.speech import CALLER, synthesized

        return synthesized(f"{text}?", CALLER)
    try:
        with wave.open(str(audio)) as file:
            if (file.getnchannels(), file.getsampwidth()) != _MONO_16_BIT:
                raise click.BadParameter("one channel with 16 bits is needed", param_hint="--audio")
            return pcm.trimmed(pcm.resampled(file.readframes(file.getnframes()), file.getframerate()))
    except (wave.Error, EOFError) as error:
        raise click.BadParameter(f"{audio}: {error}", param_hint="--audio") from None


def _compared(report: Report, baseline: Path) -> list[str]:
    try:
        before: Any = json.loads(baseline.read_text(encoding="utf-8"))
        return regressions(report.metrics(), before)
    except (ValueError, AttributeError) as error:
        raise click.BadParameter(f"{baseline}: {error}", param_hint="--baseline") from None


def _explain(report: Report) -> None:
    """Say why calls failed, and which traces the slowest have."""
    problems = [outcome.problem for outcome in report.outcomes if outcome.problem]
    for problem in dict.fromkeys(problems):
        click.echo(f"voicespan latency-test: {problems.count(problem)} failed: {problem}", err=True)
    traced = [outcome for outcome in report.outcomes if outcome.latency_s is not None and outcome.trace_id]
    for outcome in sorted(traced, key=lambda each: -(each.latency_s or 0))[:_SLOWEST]:
        click.echo(f"{(outcome.latency_s or 0) * 1e3:7.0f} ms: voicespan show {outcome.trace_id}", err=True)
