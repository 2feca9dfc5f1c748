"""`voicespan load`: how a back end, and a service, take the telemetry of so many calls."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import click

from voicespan.load.result import Result
from voicespan.load.shape import TURN_EVERY_S, Shape
from voicespan.run import environment
from voicespan.sdk.endpoint import Endpoint

if TYPE_CHECKING:
    from collections.abc import Callable

SERVICE = "voicespan-load"
_MOST_AGENTS = 8
_START_AND_END_S = 60.0
"""What the start of the service, the part without telemetry and the last requests may take beside."""


@click.command()
@click.option("--calls", type=click.IntRange(1, 100_000), default=100, show_default=True, help="Calls at once.")
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    help="Turns a second of all calls together.  [default: one of each call every 5 s]",
)
@click.option(
    "--seconds",
    type=click.FloatRange(1, 86_400),
    default=30.0,
    show_default=True,
    help="How long the calls are held.",
)
@click.option(
    "--through",
    "way",
    type=click.Choice(["sdk", "otlp", "agent"]),
    default="sdk",
    show_default=True,
    help="A service of simulated calls; ready requests, straight to the back end; the reference agent.",
)
@click.option("--endpoint", metavar="URL", help="The Collector or viewer.  [OTEL_EXPORTER_OTLP_ENDPOINT]")
@click.option("--json", "as_json", is_flag=True, help="Print nothing but the figures, as JSON.")
def load(*, calls: int, rate: float | None, seconds: float, way: str, endpoint: str | None, as_json: bool) -> None:
    """Hold simulated calls and say what their telemetry costs, and what of it is lost.

    The service of simulated calls (--through sdk) is held without telemetry first, for a quarter of the time and at
    most five seconds, so that both can be compared. An agent (--through agent) takes one call at a time and its own
    time for it: --calls is how many there are, eight at most, and --rate says nothing. Ends with status 1 when a span
    was lost, or a conversation failed.
    """
    environ = environment(os.environ, SERVICE, endpoint)
    target = Endpoint.read("traces", environ)
    if target.mistake is not None:
        raise click.UsageError(target.mistake)
    if way == "agent" and (calls > _MOST_AGENTS or rate is not None):
        raise click.UsageError(f"the reference agent takes --calls up to {_MOST_AGENTS}, and no --rate")
    shape = Shape(calls, rate or calls / TURN_EVERY_S, seconds)
    if not as_json:
        click.echo(f"{calls:,} calls for {seconds:g} s through {_WORDS[way]} to {target.server}", err=True)
    told = _Progress(quiet=as_json)
    result = _RUN[way](shape, target, environ, told)
    told.over()
    if as_json:
        click.echo(json.dumps(result.plain(), indent=2))
    else:
        click.echo("\n".join(result.lines()))
    if result.lost or (way == "agent" and result.problems):
        sys.exit(1)


_WORDS = {"sdk": "the SDK", "otlp": "OTLP alone", "agent": "the reference agent"}


class _Progress:
    """One line on stderr that is written anew each second, where stderr is a terminal."""

    def __init__(self, *, quiet: bool) -> None:
        self._shown = not quiet and sys.stderr.isatty()

    def __call__(self, figures: dict[str, int]) -> None:
        if self._shown:
            words = ", ".join(f"{count:,} {name}" for name, count in figures.items())
            click.echo(f"\r  {words}\033[K", nl=False, err=True)

    def over(self) -> None:
        """Leave the line empty."""
        if self._shown:
            click.echo("\r\033[K", nl=False, err=True)


def _through_sdk(shape: Shape, _: Endpoint, environ: dict[str, str], told: Callable[[dict[str, int]], None]) -> Result:
    command = [sys.executable, "-m", "voicespan.load.calls", str(shape.calls), str(shape.rate), str(shape.seconds)]
    process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own module
    assert process.stdout is not None
    late = threading.Timer(shape.seconds + _START_AND_END_S, process.kill)
    late.daemon = True
    late.start()
    found: dict[str, Any] | None = None
    try:
        with process.stdout as lines:
            for line in lines:
                figures = json.loads(line)
                found = figures.get("result", found)
                if "result" not in figures:
                    told(figures)
        status = process.wait()
    finally:
        late.cancel()
        if process.poll() is None:  # Ctrl-C
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
    if found is None:
        raise click.ClickException(f"the service of simulated calls ended with status {status}, without a result")
    return Result.read(found)


def _through_otlp(shape: Shape, target: Endpoint, _: dict[str, str], told: Callable[[dict[str, int]], None]) -> Result:
    from voicespan.load.straight import Straight

    if target.protocol == "grpc":
        raise click.UsageError("--through otlp sends over HTTP: leave out OTEL_EXPORTER_OTLP_PROTOCOL=grpc")
    return Straight(shape, target.url, SERVICE).run(told)


def _through_agent(shape: Shape, target: Endpoint, _: dict[str, str], told: Callable[[dict[str, int]], None]) -> Result:
    try:
        from voicespan.load.agents import Agents
    except ModuleNotFoundError as error:
        raise click.ClickException(f"--through agent needs: pip install 'voicespan[demo,stack]' ({error})") from None
    return asyncio.run(Agents(shape, target.server).run(told))


_RUN: dict[str, Callable[[Shape, Endpoint, dict[str, str], Callable[[dict[str, int]], None]], Result]] = {
    "sdk": _through_sdk,
    "otlp": _through_otlp,
    "agent": _through_agent,
}
