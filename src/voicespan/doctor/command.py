"""`voicespan doctor`: the order of the checks, and their report."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from voicespan import settings
from voicespan.distro import set_defaults
from voicespan.doctor import delivery, grafana, installation, left_out, machine, reading, service, start
from voicespan.doctor.ask import Program
from voicespan.doctor.check import Check, Wanted
from voicespan.doctor.prometheus import Prometheus
from voicespan.sdk.endpoint import Endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
@click.option("--offline", is_flag=True, help="Start and send nothing, and ask nobody.")
@click.option(
    "--import",
    "modules",
    multiple=True,
    metavar="MODULE",
    help="Import a module of the service in the process of the test turn, which runs its code: finds a second provider "
    "and libraries that are instrumented twice.",
)
@click.option("--viewer", metavar="URL", help="Read the test turn back from this viewer.  [the one spans are sent to]")
@click.option("--tempo", metavar="URL", help="Read the test turn back from Tempo, by its trace id.")
@click.option("--prometheus", metavar="URL", help="See whether its series, exemplars, targets and rules are there.")
@click.option("--grafana", metavar="URL", help="See whether dashboards and data sources are there.")
@click.option("--service", metavar="URL", help="See whether a service that runs is well: /health, /metrics, reports.")
@click.option(
    "--header", "headers", multiple=True, metavar="NAME=VALUE", help="What these addresses ask for, in every request."
)
@click.option("--wait", "wait_s", default=60.0, show_default=True, help="Seconds until the test turn must be seen.")
def doctor(*, as_json: bool, offline: bool, headers: tuple[str, ...], **wanted: object) -> None:
    """Say whether a service started here is seen, from its start to the dashboards, and what to do where not.

    Reads the same variables as the service; run it in the service's environment. Sends an empty request of each signal
    and one turn, of the service `voicespan-doctor`. The exit status is 1 when something fails.
    """
    pairs = tuple((name, value) for name, _, value in (text.partition("=") for text in headers))
    failed = False
    found: list[Check] = []
    for check in examine({**os.environ, **left_out}, Wanted(**wanted, headers=pairs), offline=offline):  # type: ignore[arg-type]
        failed = failed or check.verdict == "fail"
        found.append(check)
        if not as_json:
            _print(check)
    if as_json:
        click.echo(json.dumps({"ok": not failed, "checks": [asdict(check) for check in found]}, indent=2))
    sys.exit(1 if failed else 0)


def _print(check: Check) -> None:
    click.echo(f"{click.style(f'{check.verdict:<5}', _COLOURS[check.verdict])} {check.name}: {check.message}")
    if check.remedy:
        click.echo(f"      -> {check.remedy}")


def examine(environ: Mapping[str, str], wanted: Wanted, *, offline: bool = False) -> Iterator[Check]:
    """Yield every check. Sets the defaults in the environment of this process, as a service's start would."""
    yield from installation.examine(environ)
    yield from machine.gpu(environ)
    set_defaults(os.environ)
    if offline:
        return
    arrives = True
    for check in delivery.examine():
        arrives = arrives and (check.name, check.verdict) != ("traces", "fail")
        yield check
    yield from machine.clock(_clocks(wanted))
    if not _is_off(environ):
        yield from _turn(wanted, send=arrives)
    elif wanted.prometheus is not None:
        yield from Prometheus(Program(wanted.prometheus, wanted.headers)).examine(None, 0, wanted.wait_s)
    if wanted.grafana is not None:
        yield from grafana.examine(Program(wanted.grafana, wanted.headers))
    if wanted.service is not None:
        yield from service.examine(Program(wanted.service, wanted.headers))
    yield from _scrape(environ)


def _is_off(environ: Mapping[str, str]) -> bool:
    read, _ = settings.Settings.read(environ)
    return read.disabled or environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"


def _turn(wanted: Wanted, *, send: bool) -> Iterator[Check]:
    """Send a turn and follow it."""
    prometheus = None if wanted.prometheus is None else Prometheus(Program(wanted.prometheus, wanted.headers))
    before = 0.0 if prometheus is None else prometheus.before()
    started = start.start(wanted.modules, send=send)
    yield from start.examine(started, wanted.modules)
    trace_id = None if isinstance(started, Check) else started.trace_id
    if trace_id is not None:
        viewer = _viewer(wanted)
        if viewer is not None:
            yield reading.viewer(viewer, trace_id, wanted.wait_s)
        yield from reading.tempo(wanted, trace_id)
    if prometheus is not None:
        yield from prometheus.examine(trace_id, before, wanted.wait_s)


def _viewer(wanted: Wanted) -> Program | None:
    """Return the viewer that is named, else the one that spans are sent to; None where that is none."""
    ours = settings.current()
    headers = wanted.headers or ((("Authorization", f"Bearer {ours.token}"),) if ours.token else ())
    named = wanted.viewer or ours.viewer_endpoint
    if named is not None:
        return Program(named, headers)
    traces = Endpoint.read("traces", os.environ)
    receiver = Program(traces.server, headers)
    return receiver if traces.protocol.startswith("http") and reading.is_viewer(receiver) else None


def _clocks(wanted: Wanted) -> list[Program]:
    traces = Endpoint.read("traces", os.environ)
    taken = traces.server if traces.protocol.startswith("http") and traces.mistake is None else None
    return [Program(url, wanted.headers) for url in (taken, wanted.tempo, wanted.prometheus) if url is not None]


def _scrape(environ: Mapping[str, str]) -> Iterator[Check]:
    read, _ = settings.Settings.read(environ)
    if read.prometheus_port is None:
        return
    token = (("Authorization", f"Bearer {read.prometheus_token}"),) if read.prometheus_token else ()
    host = "127.0.0.1" if read.prometheus_host in {"0.0.0.0", "::"} else read.prometheus_host  # noqa: S104 - asked
    yield from service.scrape(Program(f"http://{host}:{read.prometheus_port}", token))
