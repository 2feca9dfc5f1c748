"""A service that runs: whether it is well, whether it can be scraped, and whether browsers can report to it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from voicespan import names as n
from voicespan.diagnostics import number
from voicespan.doctor.ask import Program, Unanswered
from voicespan.doctor.check import Check
from voicespan.stack import promql as q

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEARTBEAT = q.series(n.METRIC_VOICE_SERVICE_UP)
_DROPPED = q.series(n.METRIC_OTEL_SDK_PROCESSOR_SPAN_PROCESSED)
_FAILED = re.compile(r'error_type="[^"]')
_ABSENT = (404, 405)
_REFUSED = (401, 403)


def examine(program: Program) -> Iterator[Check]:
    """Yield what a service says at `/health`, `/metrics` and `/api/metrics`."""
    try:
        health = program.ask("/health")
        yield from _scraped(program)
        report = program.ask("/api/metrics", b"{}")
    except Unanswered as error:
        yield Check("service", "fail", f"nobody answers at {program.shown}: {error}", "start it, or mend the address")
        return
    if not health.ok:
        yield Check(
            "service",
            "warn",
            f"{program.shown}/health answers {health.status}",
            "Kubernetes and load balancers ask there: add a route",
        )
    if report.status in _ABSENT:
        yield Check(
            "client reports",
            "warn",
            f"{program.shown}/api/metrics takes none ({report.status}): nobody knows when callers hear",
            "app.mount('/', voicespan.client.client_reports()): docs/client.md",
        )
    else:
        yield Check("client reports", "ok", f"/api/metrics is there: it refuses an empty report ({report.status})")


def scrape(program: Program) -> Iterator[Check]:
    """Yield what a scrape of VOICESPAN_PROMETHEUS_PORT gives; a service that does not run is no failure."""
    try:
        yield from _scraped(program)
    except Unanswered as error:
        yield Check("scrape", "ok", f"{program.shown}/metrics: no service runs now ({error})")


def _scraped(program: Program) -> Iterator[Check]:
    answer = program.ask("/metrics")
    where = f"{program.shown}/metrics"
    if answer.status in _REFUSED:
        yield Check(
            "scrape",
            "fail",
            f"{where} asks for a token",
            "--header 'Authorization=Bearer TOKEN', and `authorization` in the job of Prometheus",
        )
        return
    if not answer.ok:
        yield Check(
            "scrape",
            "warn",
            f"{where} answers {answer.status}",
            "VOICESPAN_PROMETHEUS_PORT=9464, or mount voicespan.metrics.scrape_app()",
        )
        return
    samples = [line for line in answer.text.splitlines() if line and not line.startswith("#")]
    families = sum(line.startswith("# TYPE ") for line in answer.text.splitlines())
    up = [line for line in samples if line.startswith(_HEARTBEAT)]
    if not up:
        yield Check(
            "scrape",
            "fail",
            f"{where} has {number(families, 'metric')}, and {_HEARTBEAT} is not among them: "
            "voicespan does not run in this service",
            "start it with `voicespan run`",
        )
        return
    yield Check("scrape", "ok", f"{where} has {number(families, 'metric')}; {_HEARTBEAT} is {up[0].split()[-1]}")
    dropped = sum(float(line.split()[-1]) for line in samples if line.startswith(_DROPPED) and _FAILED.search(line))
    if dropped:
        yield Check(
            "dropped",
            "warn",
            f"the service has dropped {dropped:.0f} spans since its start",
            "see whether its endpoint takes them: docs/runbooks/service-drops-spans.md",
        )
