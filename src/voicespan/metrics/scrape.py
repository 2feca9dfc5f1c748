"""The scrape endpoint: what Prometheus asks a service for directly, where no Collector stands between.

Built on opentelemetry-exporter-prometheus, with what that lacks: exemplars and creation times in the OpenMetrics
format, the names that the Collector writes, the labels that it puts on a service's metrics, redaction, and a scrape
that goes on when one metric cannot be shown.
"""

from __future__ import annotations

import errno
import hmac
import logging
import os
import threading
import weakref
from bisect import bisect_left
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics
from opentelemetry.exporter.prometheus import PrometheusMetricReader, _CustomCollector
from opentelemetry.exporter.prometheus._mapping import map_unit
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ExponentialHistogram, Gauge, Histogram, Metric, Sum
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.samples import Exemplar, Sample
from prometheus_client.utils import floatToGoString

from voicespan import events, settings
from voicespan import names as n
from voicespan.diagnostics import say
from voicespan.guard import guarded, swallowed
from voicespan.sdk import scrub

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from opentelemetry.sdk.metrics.export import HistogramDataPoint, MetricsData
    from prometheus_client.core import Metric as Family

PATHS = ("/metrics", "/prometheus")
_COPIED = frozenset({n.DEPLOYMENT_ENVIRONMENT_NAME, n.SERVICE_VERSION, n.VOICE_WORKER_ID})
"""Of the resource, what becomes a label; the Collector copies the same (deploy/otel-collector.yaml)."""
_OPENMETRICS = "application/openmetrics-text"
Answer = tuple[int, dict[str, str], bytes]


class Reader(PrometheusMetricReader):
    """Collects when it is asked, and writes what it got as text."""

    def __init__(self, token: str | None = None) -> None:
        self._token = token
        self._texts = CollectorRegistry()
        self._one_at_a_time = threading.Lock()
        self.server: ThreadingHTTPServer | None = None
        super().__init__(registry=self._texts)
        self._texts.unregister(self._collector)
        self._families = self._collector = _Families(self.collect)
        self._texts.register(self._families)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    def _receive_metrics(self, metrics_data: MetricsData, timeout_millis: float = 10_000, **kwargs: Any) -> None:
        if metrics_data is not None:
            self._families.add_metrics_data(scrub.metrics(metrics_data))

    def shutdown(self, timeout_millis: float = 30_000, **kwargs: Any) -> None:
        """Answer no more."""
        if self.server is not None:
            self.server.server_close()
        super().shutdown(timeout_millis, **kwargs)

    def answer(self, *, accept: str, authorization: str) -> Answer:
        """Return status, headers and body of the answer to a scrape."""
        wanted = f"Bearer {self._token}" if self._token else ""
        if wanted and not hmac.compare_digest(authorization.encode(), wanted.encode()):
            return 401, {"Content-Type": "text/plain", "WWW-Authenticate": "Bearer"}, b"a token is needed\n"
        encode, kind = choose_encoder(accept)
        try:
            with self._one_at_a_time:
                self._families.openmetrics = kind.startswith(_OPENMETRICS)
                body = encode(self._texts)
        except Exception as error:
            swallowed("scrape", error)
            return 500, {"Content-Type": "text/plain"}, b"the scrape went wrong; stderr of the service says why\n"
        return 200, {"Content-Type": kind}, body

    def listen(self, host: str, port: int) -> None:
        """Serve on this port from a thread of its own; a port that is taken is said."""
        try:
            self.server = _Server((host, port), self)
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE
            why = "is taken, maybe by another process of this service" if taken else f"cannot be opened: {error}"
            say(
                "prometheus.port",
                f"VOICESPAN_PROMETHEUS_PORT={port} {why}: this process (pid {os.getpid()}) is not scraped there",
            )
            return
        threading.Thread(target=self.server.serve_forever, name="voicespan-scrape", daemon=True).start()

    @guarded
    def _after_fork(self) -> None:
        """The port stays the parent's; the child says so, or takes it where the parent has let it go."""
        self._one_at_a_time = threading.Lock()
        server, self.server = self.server, None
        if server is not None:
            host, port = server.server_address[:2]
            server.socket.close()
            self.listen(str(host), int(port))


class _Families(_CustomCollector):
    """Metrics as Prometheus has them: by the names module's rule, with exemplars."""

    _callback: Any

    def __init__(self, collect: Callable[[], None]) -> None:
        super().__init__(scope_info_enabled=False, resource_attribute_filter=_COPIED.__contains__)
        self._callback = collect
        self.openmetrics = False

    def _translate_metric(
        self,
        metric: Metric,
        scope_attrs: dict[str, Any],
        resource_attrs: dict[str, Any],
        metric_family_id_metric_family: dict[str, Any],
    ) -> None:
        families: dict[str, Family] = metric_family_id_metric_family
        try:
            if isinstance(metric.data, ExponentialHistogram):
                say(
                    f"scrape.{metric.name}",
                    f"{metric.name} is an exponential histogram, which the scrape endpoint cannot show: "
                    "give it explicit buckets by a view, or take it from the Collector",
                )
            elif isinstance(metric.data, Histogram):
                self._histogram(metric, metric.data, scope_attrs, resource_attrs, families)
            elif isinstance(metric.data, Sum) and metric.data.is_monotonic:
                self._counter(metric, metric.data, scope_attrs, resource_attrs, families)
            else:
                if isinstance(metric.data, Gauge) and metric.unit == "1":
                    metric = Metric(metric.name, metric.description, "ratio", metric.data)
                super()._translate_metric(metric, scope_attrs, resource_attrs, families)
        except Exception as error:  # one metric less, and not all of them
            swallowed(f"scrape of {metric.name}", error)

    def _named(self, metric: Metric) -> dict[str, Any]:
        return {
            "name": self._resolve_metric_name(metric.name),
            "documentation": metric.description or "",
            "unit": map_unit(metric.unit or ""),
        }

    def _counter(
        self, metric: Metric, data: Sum, scope: dict[str, Any], resource: dict[str, Any], families: dict[str, Family]
    ) -> None:
        keys, rows, values = self._collect_data_points(data, scope, resource)
        family = CounterMetricFamily(labels=keys, **self._named(metric))
        for point, row, value in zip(data.data_points, rows, values, strict=True):
            began_s = point.start_time_unix_nano / 1e9 if self.openmetrics and point.start_time_unix_nano else None
            family.add_metric(row, value, created=began_s)  # type: ignore[arg-type]
        self._keep(family, families)

    def _histogram(
        self,
        metric: Metric,
        data: Histogram,
        scope: dict[str, Any],
        resource: dict[str, Any],
        families: dict[str, Family],
    ) -> None:
        keys, rows, _ = self._collect_data_points(data, scope, resource)
        family = HistogramMetricFamily(labels=keys, **self._named(metric))
        for point, row in zip(data.data_points, rows, strict=True):
            family.add_metric(row, _buckets(point), point.sum)
            if self.openmetrics:
                created = Sample(f"{family.name}_created", dict(zip(keys, row, strict=True)), _s(point))
                family.samples.append(created)
        self._keep(family, families)

    @staticmethod
    def _keep(family: Family, families: dict[str, Family]) -> None:
        """Keep the family; one of the same name from another library joins the first."""
        known = families.get(family.name)
        if known is None:
            families[family.name] = family
        elif known.type == family.type:
            known.samples.extend(family.samples)


def _s(point: HistogramDataPoint) -> float:
    return point.start_time_unix_nano / 1e9


def _buckets(point: HistogramDataPoint) -> Sequence[Any]:
    """Return limit, count up to it and, where there is one, the latest exemplar of each bucket."""
    latest: dict[int, Any] = {}
    for exemplar in point.exemplars:
        if exemplar.trace_id and exemplar.span_id:
            bucket = bisect_left(point.explicit_bounds, exemplar.value)
            if bucket not in latest or exemplar.time_unix_nano > latest[bucket].time_unix_nano:
                latest[bucket] = exemplar
    found: list[Any] = []
    count = 0
    for index, more in enumerate(point.bucket_counts):
        count += more
        last = index == len(point.explicit_bounds)
        limit = "+Inf" if last else floatToGoString(point.explicit_bounds[index])  # type: ignore[no-untyped-call]
        one = latest.get(index)
        found.append((limit, count) if one is None else (limit, count, _exemplar(one)))
    return found


def _exemplar(exemplar: Any) -> Exemplar:
    labels = {"trace_id": f"{exemplar.trace_id:032x}", "span_id": f"{exemplar.span_id:016x}"}
    return Exemplar(labels, exemplar.value, exemplar.time_unix_nano / 1e9)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], reader: Reader) -> None:
        self.reader = reader
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that goes away in the middle is no news."""


class _Handler(BaseHTTPRequestHandler):
    timeout = 10.0
    server: _Server

    def do_GET(self) -> None:
        """Answer a scrape."""
        if self.path.partition("?")[0].rstrip("/") not in PATHS:
            self._send(404, {"Content-Type": "text/plain"}, b"/metrics\n")
            return
        accept, authorization = self.headers.get("Accept", ""), self.headers.get("Authorization", "")
        self._send(*self.server.reader.answer(accept=accept, authorization=authorization))

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Write no line for each scrape."""


def serve() -> Reader:
    """Return a reader that answers on VOICESPAN_PROMETHEUS_PORT, for a meter provider that is being made."""
    ours = settings.current()
    reader = Reader(ours.prometheus_token)
    reader.listen(ours.prometheus_host, ours.prometheus_port or 0)
    _listening.append(weakref.ref(reader))
    announce()
    return reader


def announce() -> None:
    """Say where Prometheus finds the metrics, where lines are written and nothing was said yet."""
    while events.enabled and _listening:
        reader = _listening.pop()()
        if reader is not None and reader.server is not None:
            host, port = reader.server.server_address[:2]
            shown = "localhost" if host in ("0.0.0.0", "::") else str(host)  # noqa: S104 - compared, not bound
            events.say(
                logging.INFO, f"Prometheus metrics available at http://{shown}:{port}{PATHS[0]}", "metrics.available"
            )


_listening: list[weakref.ref[Reader]] = []
"""Whose port was not told yet."""


def scrape_app(token: str | None = None) -> Callable[..., Awaitable[None]]:
    """Return an ASGI application that answers scrapes: `app.mount("/prometheus", voicespan.metrics.scrape_app())`.

    `token` (else VOICESPAN_PROMETHEUS_TOKEN) is what a scrape has to bring as `Authorization: Bearer ...`. Collecting
    runs on a thread, and not on the event loop of the calls. While voicespan is switched off it answers 503.
    """
    held = _Held(token)
    held.reader()

    async def app(scope: Any, _receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        import asyncio

        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        status, answer, body = await asyncio.to_thread(held.answer, headers)
        raw = [(key.lower().encode(), value.encode()) for key, value in answer.items()]
        await send({"type": "http.response.start", "status": status, "headers": raw})
        await send({"type": "http.response.body", "body": body})

    return app


class _Held:
    """The reader of a mounted endpoint; made when there is a provider that it can read."""

    def __init__(self, token: str | None) -> None:
        self._token = token
        self._reader: Reader | None = None
        self._lock = threading.Lock()

    def reader(self) -> Reader | None:
        provider = metrics.get_meter_provider()
        with self._lock:
            if self._reader is None and isinstance(provider, MeterProvider) and not settings.current().disabled:
                from voicespan.metrics.start import start

                self._reader = Reader(self._token or settings.current().prometheus_token)
                provider.add_metric_reader(self._reader)
                start()
            return self._reader

    def answer(self, headers: dict[str, str]) -> Answer:
        reader = self.reader()
        if reader is None:
            return 503, {"Content-Type": "text/plain"}, b"no metrics: voicespan is not running in this service\n"
        return reader.answer(accept=headers.get("accept", ""), authorization=headers.get("authorization", ""))
