"""Every environment variable that voicespan reads; `python -m voicespan.settings` prints them as docs/settings.md."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

from voicespan.nearest import nearest

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})

PREFIX = "VOICESPAN_"


class Type(NamedTuple):
    """How a variable's text becomes a value; `parse` raises ValueError, and `words` ends "is not ..."."""

    words: str
    parse: Callable[[str], object]


def _flag(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError(text)


def _number(*, above: float | None = None, least: float | None = None) -> Callable[[str], float]:
    def parse(text: str) -> float:
        value = float(text)
        if not value < float("inf") or (above is not None and value <= above) or (least is not None and value < least):
            raise ValueError(text)
        return value

    return parse


def _whole(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            raise ValueError(text)
        return value

    return parse


def _choice(*choices: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(text)
        return text.lower()

    return parse


FLAG = Type("true or false", _flag)
TEXT = Type("a text", str)
POSITIVE = Type("a number above 0", _number(above=0))
POSITIVE_S = Type("a number of seconds above 0", _number(above=0))
DURATION_S = Type("a number of seconds, 0 or more", _number(least=0))
DURATION_MS = Type("a number of milliseconds, 0 or more", _number(least=0))
LOG_LEVEL = Type("one of off, warning, debug", _choice("off", "warning", "debug"))

PORT = Type("a port from 1 to 65535", _whole(1, 65_535))
COUNT = Type("a whole number above 0", _whole(1, 1_000_000))
LOG_FORMAT = Type("json", _choice("", "json"))


class Variable(NamedTuple):
    """One environment variable: `default` as it stands in the table, empty when there is none."""

    name: str
    type: Type
    default: str
    description: str


_variables: list[Variable] = []


def _variable(name: str, type_: Type, default: object, description: str) -> Any:
    """Note a variable, and return the default of its field, which has the same name in lower case."""
    _variables.append(Variable(PREFIX + name, type_, _shown(default), description))
    return default


def _shown(default: object) -> str:
    if isinstance(default, bool):
        return str(default).lower()
    return f"{default:g}" if isinstance(default, float) else str(default or "")


class Settings(NamedTuple):
    """What the VOICESPAN_* variables say. A value that is not understood leaves the default in force."""

    disabled: bool = _variable(
        "DISABLED", FLAG, False, "Switches everything off: no provider is made, every call does nothing."
    )
    log_level: Literal["off", "warning", "debug"] = _variable(
        "LOG_LEVEL",
        LOG_LEVEL,
        "warning",
        "What voicespan says about itself on stderr: nothing, what needs attention, or also what it does.",
    )
    worker_id: str | None = _variable(
        "WORKER_ID",
        TEXT,
        None,
        "Resource attribute `voice.worker.id`. Use a stable ordinal (`tts-0`): it becomes a metric label.",
    )
    run: str | None = _variable(
        "RUN",
        TEXT,
        None,
        "Resource attribute `voicespan.run`: a name for what is tried out. The viewer compares runs; without a name, "
        "each start of the service is one.",
    )
    vad_hangover_ms: float | None = _variable(
        "VAD_HANGOVER_MS",
        DURATION_MS,
        None,
        "The silence that the detector waits for before it decides. Where it does not report the real end of speech, "
        "the end is taken to be the decision less this.",
    )
    turn_idle_s: float = _variable(
        "TURN_IDLE_S", POSITIVE_S, 60.0, "A turn without an open stage and with no audio left to play ends after this."
    )
    turn_max_s: float = _variable(
        "TURN_MAX_S", POSITIVE_S, 600.0, "A turn that is still open after this ends with outcome `timeout`."
    )
    genai_drafts: bool = _variable(
        "GENAI_DRAFTS",
        FLAG,
        False,
        "Adds the GenAI names that are still drafts (`gen_ai.operation.name` of the voice stages).",
    )
    spool_dir: str | None = _variable(
        "SPOOL_DIR",
        TEXT,
        None,
        "A folder in which spans are kept that cannot be sent, also over the end of the process; they are sent later, "
        "marked `voicespan.replayed`. Processes may share it.",
    )
    spool_mib: float = _variable(
        "SPOOL_MIB",
        Type("a number of MiB above 0", _number(above=0)),
        256.0,
        "The most that folder keeps, compressed; newer spans replace the oldest.",
    )
    exit_timeout_s: float = _variable(
        "EXIT_TIMEOUT_S",
        DURATION_S,
        2.0,
        "At exit and on SIGTERM, what is still queued is sent for at most this long, all signals together.",
    )

    log_format: Literal["", "json"] = _variable(
        "LOG_FORMAT",
        LOG_FORMAT,
        "",
        "`json` has the root logger write JSON lines to stdout, each with the trace id of its turn.",
    )
    log_client_address: bool = _variable(
        "LOG_CLIENT_ADDRESS",
        FLAG,
        False,
        "Log lines carry the client's whole address, and not only its network.",
    )
    redact: str | None = _variable(
        "REDACT",
        TEXT,
        None,
        "A file with further patterns to take out of every string that leaves the process: one regular expression a "
        "line, then, after a tab, what stands in its place (else `[REDACTED]`).",
    )
    redact_key: str | None = _variable(
        "REDACT_KEY",
        TEXT,
        None,
        "Keys the digest that stands for a session id that was a phone number or an address, so that it is the same in "
        "every process; by default it differs in each.",
    )
    prometheus_port: int | None = _variable(
        "PROMETHEUS_PORT",
        PORT,
        None,
        "Serves the metrics for scraping on this port, at `/metrics` and `/prometheus`. 9464 is usual.",
    )
    prometheus_host: str = _variable(
        "PROMETHEUS_HOST", TEXT, "127.0.0.1", "Where that port listens; `0.0.0.0` is every address of the machine."
    )
    prometheus_token: str | None = _variable(
        "PROMETHEUS_TOKEN", TEXT, None, "What a scrape has to bring along as `Authorization: Bearer ...`."
    )
    latency_target_ms: float = _variable(
        "LATENCY_TARGET_MS",
        DURATION_MS,
        600.0,
        "A session meets its target when every utterance was answered, and on average within this time.",
    )
    label_values: int = _variable(
        "LABEL_VALUES",
        COUNT,
        50,
        "How many values a label of a metric may have, where they are not listed; further ones become `other`.",
    )
    stages: str | None = _variable(
        "STAGES",
        TEXT,
        None,
        "A stage map: a YAML file that says which functions of the service are its stages. `voicespan stages check` "
        "looks at it beforehand.",
    )
    framework_spans: bool = _variable(
        "FRAMEWORK_SPANS",
        FLAG,
        False,
        "Leaves the spans that Pipecat makes itself, one trace of a whole call beside the turns, as the bot sets them.",
    )
    db: str | None = _variable(
        "DB",
        TEXT,
        None,
        "The SQLite file of the local viewer; by default `voicespan/voicespan.db` in the user's state directory. "
        "`:memory:` is one that is gone when the viewer ends.",
    )
    keep_days: float | None = _variable(
        "KEEP_DAYS",
        POSITIVE,
        None,
        "The viewer forgets turns that are older, from now on and whoever opens its database; at first 14.",
    )
    keep_mib: float | None = _variable(
        "KEEP_MIB", POSITIVE, None, "The viewer forgets the oldest turns beyond this size; at first 1024."
    )
    viewer_endpoint: str | None = _variable(
        "VIEWER_ENDPOINT",
        TEXT,
        None,
        "The viewer that is told of turns in progress, where it is not the one that the spans are sent to.",
    )
    content: bool = _variable(
        "CONTENT",
        FLAG,
        False,
        "What is said (transcripts, audio) goes to a viewer on this machine that keeps it, and the viewer keeps it; "
        "never into spans, logs or metrics, and never to another machine.",
    )
    token: str | None = _variable(
        "TOKEN",
        TEXT,
        None,
        "What the viewer asks of everyone who sends to it or looks at it: at least 16 letters and digits. Where other "
        "machines can reach it, it makes one at its start unless this is set. A service takes it along to "
        "`VOICESPAN_VIEWER_ENDPOINT`.",
    )
    trace_link: str | None = _variable(
        "TRACE_LINK",
        TEXT,
        None,
        "Where the viewer's page finds a trace in another program: an address with `{trace_id}` in it.",
    )
    sigterm: bool = _variable(
        "SIGTERM",
        FLAG,
        True,
        "SIGTERM closes the open turns and sends what is queued before it ends the process. Only where the service "
        "does not handle the signal itself.",
    )

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> tuple[Settings, tuple[str, ...]]:
        """Return the settings and one sentence for each variable that was not understood. Never raises."""
        values: dict[str, object] = {}
        problems: list[str] = []
        for attribute, variable in zip(cls._fields, VARIABLES, strict=True):
            text = environ.get(variable.name, "").strip()
            if not text:
                continue
            try:
                values[attribute] = variable.type.parse(text)
            except ValueError:
                fallback = f"using {variable.default}" if variable.default else "ignored"
                problems.append(f"{variable.name}={text!r} is not {variable.type.words}: {fallback}")
        problems.extend(_unknown(environ))
        return cls(**cast("Any", values)), tuple(problems)


VARIABLES = tuple(_variables)
"""The variables of `Settings`, in order of the table."""

OTEL_DEFAULTS: tuple[Variable, ...] = (
    Variable("OTEL_TRACES_EXPORTER", TEXT, "otlp", "Where spans go: `otlp`, `console`, `none`, or several."),
    Variable("OTEL_METRICS_EXPORTER", TEXT, "otlp", "Where metrics go."),
    Variable("OTEL_LOGS_EXPORTER", TEXT, "none", "Log records stay where the service writes them."),
    Variable(
        "OTEL_EXPORTER_OTLP_PROTOCOL",
        TEXT,
        "http/protobuf",
        "`grpc` needs `pip install 'voicespan[otlp-grpc]'` and costs more start-up time and memory.",
    ),
    Variable(
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
        TEXT,
        "64",
        "Spans of one request. Small, because encoding holds the interpreter: 64 spans take about 1.5 ms.",
    ),
    Variable("OTEL_BSP_SCHEDULE_DELAY", TEXT, "200", "Milliseconds after which a batch that is not full is sent."),
    Variable("OTEL_METRIC_EXPORT_INTERVAL", TEXT, "15000", "Milliseconds between exports of metrics."),
    Variable("OTEL_METRICS_EXEMPLAR_FILTER", TEXT, "trace_based", "Measurements in a sampled span keep its trace id."),
    Variable("OTEL_SEMCONV_STABILITY_OPT_IN", TEXT, "http", "The HTTP integrations use the stable names."),
)
"""The standard variables that voicespan sets where the environment does not."""

_NOT_OURS = ("VOICESPAN_DEMO_",)


def _unknown(environ: Mapping[str, str]) -> list[str]:
    known = [variable.name for variable in VARIABLES]
    names = [name for name in environ if name.upper().startswith(PREFIX) and not name.startswith(_NOT_OURS)]
    return [f"{name} is no variable of voicespan{_hint(name, known)}" for name in names if name not in known]


def _hint(name: str, known: list[str]) -> str:
    near = nearest(name.upper().removeprefix(PREFIX), [each.removeprefix(PREFIX) for each in known])
    return f": did you mean {PREFIX}{near}?" if near else ""


_cache: list[Settings] = []


def current() -> Settings:
    """Return the settings of this process, read once; what was not understood is said on stderr."""
    if not _cache:
        settings, problems = Settings.read(os.environ)
        _cache.append(settings)
        if problems:
            from voicespan.diagnostics import say

            for problem in problems:
                say(f"settings: {problem}", problem)
    return _cache[0]


def reset(value: Settings | None = None) -> None:
    """Use `value` from now on, or read the environment again: for tests and for variables that a start-up set."""
    _cache[:] = [] if value is None else [value]


_HEAD = """# Settings

voicespan is set by environment variables: the standard `OTEL_*` ones where one exists, `VOICESPAN_*` otherwise. They
are read once, at start. A value or name that is not understood is said on stderr, and the service starts all the same;
`voicespan doctor` checks them beforehand. This page is made by `python -m voicespan.settings`.
"""

_OTEL_HEAD = """## Standard variables that voicespan sets

These are set where the environment does not set them. All other `OTEL_*` variables mean what the OpenTelemetry SDK
says: headers, TLS, compression, time-outs, samplers, span limits, `OTEL_SDK_DISABLED`. `OTEL_CONFIG_FILE` is refused.
"""

_CHOICE = """## Which distribution is loaded

`voicespan run -- COMMAND` chooses voicespan by itself. `opentelemetry-instrument` and the Kubernetes operator load the
first distribution that they find; where others are installed (`opentelemetry-distro` among them), choose with
`OTEL_PYTHON_DISTRO=voicespan` and `OTEL_PYTHON_CONFIGURATOR=voicespan`. A name that is not installed, or another
distribution that came first, is said on stderr.
"""


def markdown() -> str:
    """Return docs/settings.md."""
    ours = _table([(variable, variable.type.words) for variable in VARIABLES])
    standard = _table([(variable, "") for variable in OTEL_DEFAULTS])
    return f"{_HEAD}\n{ours}\n{_OTEL_HEAD}\n{standard}\n{_CHOICE}"


def _table(rows: list[tuple[Variable, str]]) -> str:
    typed = any(words for _, words in rows)
    head = (
        "| Variable | Default | Value | Meaning |\n|---|---|---|---|\n"
        if typed
        else ("| Variable | Default | Meaning |\n|---|---|---|\n")
    )
    lines = []
    for variable, words in rows:
        default = f"`{variable.default}`" if variable.default else "none"
        lines.append(" | ".join([f"| `{variable.name}`", default, *([words] if typed else []), variable.description]))
    return head + "".join(f"{line} |\n" for line in lines)


if __name__ == "__main__":
    import sys

    sys.stdout.write(markdown())
