"""Makes and installs the providers of spans, metrics and log records, and watches for a second one."""

from __future__ import annotations

# The SDK's provider makes its resource anew in the child of a fork, with a thread pool. Handlers of forks run in the
# order of their registration: the pool's has to come first, or it waits for ever for a lock that nobody gives back.
import concurrent.futures.thread  # noqa: F401
import logging
import os
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider

from voicespan import hooked, scores, settings
from voicespan.diagnostics import caller, say
from voicespan.metrics.instruments import nobody_reads, views
from voicespan.metrics.start import start as start_metrics
from voicespan.sdk import resource
from voicespan.sdk.batch import Batcher, Limits
from voicespan.sdk.endpoint import in_use
from voicespan.sdk.export import BatchProcessor, MetricSender, count_processed
from voicespan.sdk.exporters import Maker, makers
from voicespan.sdk.shutdown import Shutdown

if TYPE_CHECKING:
    from collections.abc import Callable

    from opentelemetry.sdk.resources import Resource

    from voicespan.sdk.endpoint import Endpoint, Signal

_SAMPLERS = frozenset(
    {
        "always_on",
        "always_off",
        "traceidratio",
        "parentbased_always_on",
        "parentbased_always_off",
        "parentbased_traceidratio",
    }
)


def start(auto_instrumentation_version: str | None = None) -> None:
    """Make the providers that the environment asks for, install them, and arrange for the end of the process."""
    who = resource.create(auto_instrumentation_version)
    if resource.service_name(os.environ) is None:
        say("service-name", f"OTEL_SERVICE_NAME is not set: the service appears as {who.attributes['service.name']!r}")
    starting = _Starting(who)
    starting.metrics()
    starting.spans()
    starting.logs()
    starting.finish()


class _Starting:
    """What has been made so far."""

    def __init__(self, who: Resource) -> None:
        self._resource = who
        self._batchers: list[Batcher[Any]] = []
        self._metric_senders: list[MetricSender] = []
        self._endpoints: list[Endpoint] = []
        self._tracers: TracerProvider | None = None
        self._meters: MeterProvider | None = None
        self._end_logs: Callable[[], None] | None = None

    def metrics(self) -> None:
        readers = [self._reader(maker) for maker in self._makers("metrics")]
        scraped = self._scraped()
        readers += [scraped] if scraped is not None else []
        provider = MeterProvider(readers, self._resource, shutdown_on_exit=False, views=views())
        metrics.set_meter_provider(provider)
        if metrics.get_meter_provider() is provider:
            self._meters = provider
            if readers:
                start_metrics()
            else:
                nobody_reads(provider)
        else:
            _say_taken("MeterProvider", metrics.get_meter_provider())

    def _reader(self, maker: Maker) -> MetricReader:
        made = maker()
        if isinstance(made, MetricReader):
            return made
        sender = MetricSender(made, target=maker.target, remake=maker)
        self._metric_senders.append(sender)
        return PeriodicExportingMetricReader(sender)

    def _scraped(self) -> MetricReader | None:
        """Return the reader of the scrape endpoint, where one is asked for."""
        if settings.current().prometheus_port is None:
            return None
        try:
            from voicespan.metrics.scrape import serve
        except ImportError as error:
            say("prometheus", f"VOICESPAN_PROMETHEUS_PORT: {error}: pip install 'voicespan[prometheus]'")
            return None
        return serve()

    def spans(self) -> None:
        provider = TracerProvider(resource=self._resource, shutdown_on_exit=False, **_tracer_options())
        for maker in self._makers("traces"):
            processor = BatchProcessor(maker(), target=maker.target, remake=maker)
            count_processed(processor.batcher, processor.spooler.spool if processor.spooler else None)
            self._batchers.append(processor.batcher)
            provider.add_span_processor(processor)
        trace.set_tracer_provider(provider)
        if trace.get_tracer_provider() is provider:
            self._tracers = provider
        else:
            _say_taken("TracerProvider", trace.get_tracer_provider())

    def logs(self) -> None:
        scores.begin(self._resource, self._batchers)
        found = self._makers("logs")
        if not found:
            return
        from voicespan.sdk.logs import install

        limits = Limits.read(os.environ, "OTEL_BLRP")
        provider, batchers = install(self._resource, found, limits)
        self._batchers += batchers
        self._end_logs = provider.shutdown

    def finish(self) -> None:
        if self._meters is not None and hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=partial(_forget_parents_values, self._meters))
        Shutdown(self._tracers, self._meters, self._batchers, list(self._metric_senders), self._end_logs).install()
        _watch_for_second_provider()
        _check_endpoints(self._endpoints)
        hooked.begin(lambda: not self._batchers or any(batcher.used for batcher in self._batchers))

    def _makers(self, signal: Signal) -> list[Maker]:
        try:
            found = makers(signal, os.environ)
        except LookupError as error:
            say(f"exporter.{signal}", f"no {signal} are sent: {error}")
            return []
        endpoints = [maker.endpoint for maker in found if maker.endpoint is not None]
        self._endpoints += endpoints
        in_use.update((each.signal, each) for each in endpoints)
        return found


def _forget_parents_values(meters: MeterProvider) -> None:
    """Let the child of a fork count from zero; the SDK lets it inherit every sum, which then counts twice.

    Reaches into the SDK, since it has no other way; where it looks different, the sums stay inherited.
    """
    consumer = getattr(meters, "_measurement_consumer", None)
    storages: Any = getattr(consumer, "_reader_storages", {})
    for storage in storages.values():
        matches = getattr(storage, "_instrument_view_instrument_matches", None)
        if isinstance(matches, dict):
            matches.clear()
    for owner in (consumer, *storages.values()):
        if hasattr(owner, "_lock"):  # a thread of the parent may have held it
            owner._lock = threading.RLock()  # noqa: SLF001


def _tracer_options() -> dict[str, Any]:
    """Return the sampler and the id generator that are not the SDK's own; its defaults need none of this."""
    sampler = os.environ.get("OTEL_TRACES_SAMPLER", "").strip()
    generator = os.environ.get("OTEL_PYTHON_ID_GENERATOR", "").strip()
    tracer_configurator = os.environ.get("OTEL_PYTHON_TRACER_CONFIGURATOR", "").strip()
    options: dict[str, Any] = {}
    if sampler and sampler.lower() not in _SAMPLERS:
        from opentelemetry.sdk._configuration import _import_sampler

        options["sampler"] = _import_sampler(sampler)
    if generator and generator != "random":
        from opentelemetry.sdk._configuration import _import_id_generator

        options["id_generator"] = _import_id_generator(generator)
    if tracer_configurator:
        from opentelemetry.sdk._configuration import _import_tracer_configurator

        options["_tracer_configurator"] = _import_tracer_configurator(tracer_configurator)
    return options


def _check_endpoints(endpoints: list[Endpoint]) -> None:
    """Say what is wrong with the endpoints, from a thread of its own: a connection may take long to fail."""
    for mistake in {endpoint.mistake for endpoint in endpoints if endpoint.mistake}:
        say(f"endpoint: {mistake}", mistake)
    addresses = {endpoint.address: endpoint for endpoint in reversed(endpoints) if not endpoint.mistake}
    if addresses:
        threading.Thread(target=_connect, args=(list(addresses.values()),), name="voicespan-check", daemon=True).start()


def _connect(endpoints: list[Endpoint]) -> None:
    for endpoint in endpoints:
        reason = endpoint.unreachable()
        if reason:
            say(
                f"endpoint: {endpoint.server}",
                f"nothing takes telemetry at {endpoint.server} yet ({reason}): start a "
                f"Collector there or set OTEL_EXPORTER_OTLP_ENDPOINT",
            )


def _say_taken(kind: str, by: object) -> None:
    say(
        f"taken.{kind}",
        f"a {kind} of {type(by).__module__} was set before voicespan's and stays: "
        "what the service records goes where that one sends it",
    )


def _watch_for_second_provider() -> None:
    for name in ("opentelemetry.trace", "opentelemetry.metrics._internal", "opentelemetry._logs._internal"):
        logging.getLogger(name).addFilter(_second_provider)


def _second_provider(record: logging.LogRecord) -> bool:
    """Say who set a second provider, in place of the API's log line, which does not tell."""
    message = record.getMessage()
    if not message.startswith("Overriding of current "):
        return True
    kind = message.split()[3]
    say(
        f"second.{kind}",
        f"{caller(__name__)} set a second {kind}, which OpenTelemetry ignores: leave the set-up to voicespan, "
        "or start the service without it",
    )
    return False
