"""Services that are started as users start them: what arrives, and what is said when something is wrong."""

from __future__ import annotations

import re
import shlex
import time
from contextlib import suppress
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING
from urllib.request import urlopen

import pytest
from tests.ports import free_port

from voicespan import names as n
from voicespan.stack import promql

from .receiver import Receiver, attributes, nobody
from .service import INSTRUMENT, ONE_SPAN, RUN, Service, run

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT = Path(__file__).parents[2]
TURN = """
    import voicespan
    with voicespan.session(id="call-1") as session:
        turn = session.user_turn()
        turn.speech_ended()
        turn.committed()
        with turn.llm(model="m"):
            pass
        turn.end()
"""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """An OTLP receiver of this test."""
    with Receiver() as made:
        yield made


@pytest.mark.covers("C-T10", "C-Q08")
@pytest.mark.parametrize("launcher", [RUN, INSTRUMENT], ids=["voicespan run", "opentelemetry-instrument"])
def test_spans_and_metrics_arrive(launcher: Sequence[str], receiver: Receiver) -> None:
    """An unchanged script sends its spans and metrics, with the resource of the process, and nothing is said."""
    script = ONE_SPAN + "from opentelemetry import metrics; metrics.get_meter('app').create_counter('hits').add(2)"
    done = run(
        script, launcher, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, OTEL_RESOURCE_ATTRIBUTES="service.version=7",
        VOICESPAN_WORKER_ID="tts-0", VOICESPAN_RUN="smaller model",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    assert receiver.span_names == ["hello"]
    who = attributes(list(receiver.resource_spans[0].resource.attributes))
    given = {"service.name": "svc", "service.version": "7", "voice.worker.id": "tts-0"}
    given |= {"voicespan.run": "smaller model"}
    assert given | {"telemetry.distro.name": "voicespan"} == {
        name: who[name] for name in (*given, "telemetry.distro.name")
    }
    assert {"telemetry.distro.version", "service.instance.id", "telemetry.auto.version"} <= set(who)
    assert receiver.metrics["hits"].sum.data_points[0].as_int == 2


def test_turns_arrive(receiver: Receiver) -> None:
    """A turn of voicespan's own interface is sent at the end of the process, however short that is."""
    done = run(TURN, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
    assert done.err == ""
    assert {"voice.turn", "vad", "llm"} <= set(receiver.span_names)
    assert len({span.trace_id for span in receiver.spans}) == 1


def test_an_open_turn_is_closed_at_exit(receiver: Receiver) -> None:
    """A turn that is open when the process ends is sent with what is known."""
    script = TURN.replace("turn.end()", "import sys; sys.exit(3)")
    done = run(script, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
    assert done.code == 3
    assert "voice.turn" in receiver.span_names


def test_headers_and_compression(receiver: Receiver) -> None:
    """The exporter's standard variables work as in the SDK."""
    run(
        OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url,
        OTEL_EXPORTER_OTLP_HEADERS="x-token=t",
        OTEL_EXPORTER_OTLP_COMPRESSION="gzip",
    )
    assert receiver.span_names == ["hello"]
    assert all(each["x-token"] == "t" and each["content-encoding"] == "gzip" for each in receiver.headers)


def test_sampler_and_span_limits(receiver: Receiver) -> None:
    """OTEL_TRACES_SAMPLER and the span limits work as in the SDK."""
    script = """
        from opentelemetry import trace
        for index in range(50):
            span = trace.get_tracer("app").start_span(f"span {index}", attributes={"a": "xxxxxxxx", "b": 1})
            span.end()
    """
    sampled = {"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0"}
    run(script, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, **sampled)
    assert receiver.spans == []
    limits = {"OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT": "3", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT": "1"}
    run(script, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url, **limits)
    assert len(receiver.spans) == 50
    assert {(len(span.attributes), span.dropped_attributes_count) for span in receiver.spans} == {(1, 1)}


def test_console_and_none() -> None:
    """The console exporter prints spans; with none, nothing leaves and nothing is said."""
    quiet = {"OTEL_METRICS_EXPORTER": "none"}
    assert '"name": "hello"' in run(OTEL_TRACES_EXPORTER="console", **quiet).out
    done = run(OTEL_TRACES_EXPORTER="none", **quiet)
    assert (done.code, done.out, done.err) == (0, "", "")


def test_logs_are_sent_when_asked_for(receiver: Receiver) -> None:
    """With OTEL_LOGS_EXPORTER=otlp there is a logger provider, and what it is given is sent."""
    script = """
        from opentelemetry._logs import LogRecord, get_logger
        get_logger("app").emit(LogRecord(body="hi", timestamp=1))
    """
    run(script, OTEL_LOGS_EXPORTER="otlp", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
    assert "/v1/logs" in receiver.paths


def test_grpc_is_imported_when_chosen() -> None:
    """OTLP over gRPC works when asked for, and costs nothing otherwise."""
    script = "import sys; print('grpc' in sys.modules, 'requests' in sys.modules, 'jsonschema' in sys.modules)"
    with nobody() as url:
        plain = run(script, OTEL_EXPORTER_OTLP_ENDPOINT=url)
        assert plain.out == "False False False\n"
        chosen = run(ONE_SPAN + "print('grpc' in __import__('sys').modules)", OTEL_EXPORTER_OTLP_ENDPOINT=url,
                     OTEL_EXPORTER_OTLP_PROTOCOL="grpc", OTEL_METRICS_EXPORTER="none")  # fmt: skip
    assert chosen.out == "True\n"
    assert f"1 span to {url}" in chosen.line("at exit, not sent")


def test_a_service_without_a_framework_pays_for_no_turns() -> None:
    """What only turns, requests, or a failure need is not imported by the start of a process."""
    later = ("voicespan.sessions", "voicespan.turn", "voicespan.record", "voicespan.finish", "http.client", "hmac")
    script = f"import sys; print([name for name in {later} if name in sys.modules])"
    with nobody() as url:
        assert run(script, OTEL_EXPORTER_OTLP_ENDPOINT=url, OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="").out == "[]\n"


def test_garbage_collection_is_as_it_was_after_the_start() -> None:
    """It is held while voicespan starts, and only then: also where it was off, or objects were frozen."""
    quiet = {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}
    script = "import gc; print(gc.isenabled(), gc.get_freeze_count())"
    assert run(script, **quiet).out == "True 0\n"
    script = """
        import gc
        from voicespan import setup_tracing
        {before}
        frozen = gc.get_freeze_count()
        setup_tracing()
        print(gc.isenabled(), gc.get_freeze_count() >= 0.9 * frozen, frozen > 0)
    """
    assert run(script.format(before="gc.disable()"), (), **quiet).out == "False True False\n"
    assert run(script.format(before="gc.freeze()"), (), **quiet).out == "True True True\n"


def test_garbage_collection_is_held_from_the_first_module_on() -> None:
    """Also while OpenTelemetry's loader works, which `voicespan run` has started; nothing that it starts is started so.

    Afterwards all is as before, also where it fails, and what the service starts is instrumented too.
    """
    script = """
        import gc, os, subprocess, sys
        from opentelemetry.instrumentation import auto_instrumentation as theirs
        from voicespan import auto_instrumentation as ours
        path = os.environ["PYTHONPATH"]

        def fails():
            print(gc.isenabled(), ours.DIRECTORY in os.environ["PYTHONPATH"])
            raise OSError

        theirs.initialize = fails
        try:
            ours.initialize()
        except OSError:
            print(gc.isenabled(), os.environ["PYTHONPATH"] == path)
        asked = "from voicespan.distro import loaded; print(sorted(loaded))"
        print(subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True).stdout, end="")
    """
    done = run(script, RUN, OTEL_TRACES_EXPORTER="none", OTEL_METRICS_EXPORTER="none")
    assert done.out.splitlines() == [
        "False False", "True True", "['OTEL_PYTHON_CONFIGURATOR', 'OTEL_PYTHON_DISTRO']",
    ]  # fmt: skip


def test_who_imports_all_modules_starts_nothing() -> None:
    """The module that Python imports by itself at its start does nothing under the name that it has in the package."""
    script = """
        import voicespan.auto_instrumentation.sitecustomize
        from opentelemetry.trace import get_tracer_provider
        print(type(get_tracer_provider()).__name__)
    """
    assert run(script, (), OTEL_PYTHON_DISTRO="voicespan").out == "ProxyTracerProvider\n"


def test_the_loader_reads_no_metadata_of_instrumentations() -> None:
    """Not twice for each of their instrumentors, as the loader would: that waits until their library is imported."""
    script = """
        import importlib.metadata as metadata
        read = metadata.Distribution.metadata
        names = []

        def counted(self):
            found = read.fget(self)
            names.append(found["Name"])
            return found

        metadata.Distribution.metadata = property(counted)
        from opentelemetry.instrumentation.auto_instrumentation import initialize
        initialize()
        print(*(name for name in names if name == "voicespan" or "instrumentation-" in name))
    """
    done = run(
        script, (), OTEL_PYTHON_DISTRO="voicespan", OTEL_TRACES_EXPORTER="none", OTEL_METRICS_EXPORTER="none",
        OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="",
    )  # fmt: skip
    assert done.out.split() == []


def test_switched_off(receiver: Receiver) -> None:
    """VOICESPAN_DISABLED=true makes no provider and no thread, and says nothing."""
    script = (
        dedent(TURN) + "import threading; print(type(trace.get_tracer_provider()).__name__, threading.active_count())"
    )
    done = run(
        "from opentelemetry import trace" + script, VOICESPAN_DISABLED="true", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url
    )
    assert (done.code, done.out, done.err) == (0, "ProxyTracerProvider 1\n", "")
    assert receiver.paths == []


def test_sdk_switched_off(receiver: Receiver) -> None:
    """OTEL_SDK_DISABLED=true records nothing, and the propagators work all the same."""
    script = ONE_SPAN + "from opentelemetry.propagate import get_global_textmap as g; print(sorted(g().fields))"
    done = run(script, OTEL_SDK_DISABLED="true", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
    assert (done.out, done.err, receiver.paths) == ("['baggage', 'traceparent', 'tracestate']\n", "", [])


@pytest.mark.parametrize(
    ("chosen", "fields"), [("", "['baggage', 'traceparent', 'tracestate']"), ("baggage", "['baggage']"), ("none", "[]")]
)
def test_propagators(chosen: str, fields: str) -> None:
    """The headers are W3C trace context and baggage, or what OTEL_PROPAGATORS says."""
    script = "from opentelemetry.propagate import get_global_textmap; print(sorted(get_global_textmap().fields))"
    off = {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}
    assert run(script, OTEL_PROPAGATORS=chosen, **off).out == f"{fields}\n"


def test_buckets_and_exemplars(receiver: Receiver) -> None:
    """Our histograms have the boundaries of the names module, and a measurement in a span keeps its trace id."""
    script = """
        from opentelemetry import metrics, trace
        with trace.get_tracer("app").start_as_current_span("hello"):
            metrics.get_meter("app").create_histogram("voice.control.duration").record(0.007)
    """
    run(script, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
    (point,) = receiver.metrics["voice.control.duration"].histogram.data_points
    assert list(point.explicit_bounds) == [0.005, 0.01, 0.02, 0.05]
    assert [exemplar.trace_id for exemplar in point.exemplars] == [receiver.spans[0].trace_id]


@pytest.mark.covers("D-K03")
def test_the_machine_alone() -> None:
    """The command of docs/metrics.md serves what processor, memory and cards do, with no service and no call."""
    (typed,) = re.findall(r"^OTEL_SERVICE_NAME=machine .*$", (ROOT / "docs/metrics.md").read_text(), re.MULTILINE)
    port = free_port()
    words = shlex.split(typed)
    environ = dict(word.split("=", 1) for word in words[: words.index("voicespan")])
    assert environ["VOICESPAN_PROMETHEUS_PORT"] in typed
    service = Service(
        "", command=words[words.index("--") + 1 :], **environ | {"VOICESPAN_PROMETHEUS_PORT": str(port)}
    )  # fmt: skip
    share = promql.series(n.METRIC_SYSTEM_CPU_UTILIZATION)
    try:
        text = scraped(port, with_line=share)  # a share needs time to have passed since the process began
    finally:
        service.process.terminate()
        done = service.finish()
    for name in (n.METRIC_SYSTEM_CPU_UTILIZATION, n.METRIC_SYSTEM_MEMORY_USAGE, n.METRIC_PROCESS_MEMORY_USAGE):
        assert re.search(rf"^{promql.series(name)}(\{{.*\}})? [0-9.e+]+$", text, re.MULTILINE), name
    assert done.err == ""


def scraped(port: int, with_line: str = "") -> str:
    """What a process shows on its port, once it does, and once a line begins with these words."""
    until = time.monotonic() + 30
    text = ""
    while time.monotonic() < until:
        with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = str(answer.read().decode())
            if f"\n{with_line}" in text:
                return text
        time.sleep(0.1)
    raise AssertionError(text or "nothing answered")


# What is said when something is wrong


def test_a_missing_service_name(receiver: Receiver) -> None:
    """Without a service name the service runs, and one line says under which name it appears."""
    done = run(OTEL_SERVICE_NAME="", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
    assert len(done.lines) == 1
    assert "unknown_service:python" in done.line("OTEL_SERVICE_NAME is not set")
    assert receiver.span_names == ["hello"]


@pytest.mark.parametrize("launcher", [RUN, INSTRUMENT], ids=["voicespan run", "opentelemetry-instrument"])
def test_a_misspelt_distro(launcher: Sequence[str], receiver: Receiver) -> None:
    """A misspelt distribution is said with the nearest name; the service runs."""
    done = run(ONE_SPAN, launcher, OTEL_PYTHON_DISTRO="voicespam", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
    assert done.code == 0
    assert all("did you mean voicespan?" in line for line in done.lines if "OTEL_PYTHON_DISTRO=voicespam" in line)
    assert any("OTEL_PYTHON_DISTRO=voicespam is not installed" in line for line in done.lines)


@pytest.mark.parametrize("launcher", [RUN, INSTRUMENT], ids=["voicespan run", "opentelemetry-instrument"])
def test_a_misspelt_configurator(launcher: Sequence[str], receiver: Receiver) -> None:
    """A misspelt configurator means that nothing is sent, and that is said with the nearest name."""
    done = run(ONE_SPAN, launcher, OTEL_PYTHON_CONFIGURATOR="voicespam", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
    assert (done.code, receiver.paths) == (0, [])
    assert any("OTEL_PYTHON_CONFIGURATOR=voicespam" in line and "no telemetry is sent" in line for line in done.lines)


def test_an_unreachable_endpoint() -> None:
    """An endpoint where nobody listens is said while the service runs, which it does not hold up."""
    script = """
        import time
        print("running", flush=True)
        time.sleep(60)
    """
    with nobody() as url:
        service = Service(script, OTEL_EXPORTER_OTLP_ENDPOINT=url, VOICESPAN_SIGTERM="false")
        service.wait_for("running")
        assert service.process.stderr is not None
        line = service.process.stderr.readline()
        service.process.terminate()
        service.finish()
    assert line.startswith(f"voicespan: nothing takes telemetry at {url} yet (connection refused)")


def test_a_url_without_a_scheme() -> None:
    """An endpoint without http:// is said with what to write."""
    done = run("", OTEL_EXPORTER_OTLP_ENDPOINT="127.0.0.1:1")
    assert done.line("has no scheme").endswith("write http://127.0.0.1:1")


def test_a_config_file_is_refused(receiver: Receiver) -> None:
    """OTEL_CONFIG_FILE is refused in one line, nothing is sent, and the service runs."""
    done = run(OTEL_CONFIG_FILE="otel.yaml", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
    assert (done.code, len(done.lines), receiver.paths) == (0, 1, [])
    assert "nothing is sent" in done.line("OTEL_CONFIG_FILE is not supported yet")


def test_an_unknown_exporter(receiver: Receiver) -> None:
    """An exporter that is not installed is one line; the other signals are sent."""
    done = run(OTEL_METRICS_EXPORTER="grphite", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
    assert "no metrics are sent: OTEL_METRICS_EXPORTER=grphite" in done.line("grphite")
    assert receiver.span_names == ["hello"]


def test_a_second_provider(receiver: Receiver) -> None:
    """Code that sets a provider of its own is named with file and line; ours stays."""
    script = """
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        trace.set_tracer_provider(TracerProvider())
    """
    done = run(dedent(script) + ONE_SPAN, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
    assert done.err.count("\n") == 1
    assert "<string>:4 set a second TracerProvider" in done.line("second")
    assert receiver.span_names == ["hello"]


def test_a_provider_that_was_first(receiver: Receiver) -> None:
    """Where another provider is set already, that is said."""
    script = """
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        trace.set_tracer_provider(TracerProvider())
        from voicespan.distro import setup_tracing
        setup_tracing("svc")
    """
    done = run(script, (), OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
    assert "a TracerProvider of opentelemetry.sdk.trace was set before" in done.line("TracerProvider")


def test_a_refusing_collector_is_told_with_its_reason() -> None:
    """A Collector that answers 401 is told as that."""
    with Receiver(status=401) as receiver:
        done = run(OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
    assert f"1 span to {receiver.url}/v1/traces (401 Unauthorized)" in done.line("at exit, not sent")


def test_misspelt_settings_are_said(receiver: Receiver) -> None:
    """A misspelt VOICESPAN_ variable is one line; the service runs."""
    done = run(VOICESPAN_TURN_MX_S="5", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
    assert done.lines == [
        "voicespan: VOICESPAN_TURN_MX_S is no variable of voicespan: did you mean VOICESPAN_TURN_MAX_S?"
    ]
    assert receiver.span_names == ["hello"]


@pytest.mark.covers("C-T09")
def test_set_up_by_one_call(receiver: Receiver) -> None:
    """`setup_tracing(service_name)` does in code what the environment does, and returns a tracer."""
    script = """
        from voicespan.distro import setup_tracing
        tracer = setup_tracing("by-hand")
        assert setup_tracing("again") is not None
        with tracer.start_as_current_span("hello"):
            pass
    """
    done = run(script, (), OTEL_SERVICE_NAME="", OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
    assert done.err == ""
    assert receiver.span_names == ["hello"]
    assert attributes(list(receiver.resource_spans[0].resource.attributes))["service.name"] == "by-hand"


def test_a_call_shorter_than_an_interval_has_its_metrics(receiver: Receiver) -> None:
    """What is counted in plain numbers reaches its histogram in the only collection, at the end; nothing is said."""
    script = """
        import asyncio, voicespan
        async def call():
            with voicespan.session(id="call-1") as session:
                session.user_turn().committed()
                await asyncio.sleep(0.15)
        asyncio.run(call())
    """
    done = run(script, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url)
    assert done.err == ""
    assert "voice.event_loop.delay" in receiver.metrics
