"""What one log line costs: our formatter inside a stage, redacted, against python-json-logger and structlog.

All write the same message with the same two fields; theirs have no trace id, session or redaction. Then what redaction
costs by itself: a text that was seen before, a new one without anything to find, one with an address in it, and a
text of 10 kB. Paired in one run. Prints JSON: medians in microseconds, and ratios to the standard library's text line.

    python benchmarks/logs.py [--rounds 25]
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import statistics
import time
from importlib.util import find_spec
from itertools import count
from typing import TYPE_CHECKING

from voicespan import logs
from voicespan.emit import BackgroundRecorder
from voicespan.redaction import redact
from voicespan.sessions import Session

if TYPE_CHECKING:
    from collections.abc import Callable

LINES = 1000
EXTRA = {"model_id": "cosy", "fal_ms": 212}


class Nowhere(io.TextIOBase):
    """A stream that takes everything and keeps nothing."""

    def write(self, text: str) -> int:
        return len(text)


def logger_with(name: str, formatter: logging.Formatter | None) -> logging.Logger:
    made = logging.getLogger(name)
    handler = logging.StreamHandler(Nowhere())
    handler.setFormatter(formatter or logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    made.handlers[:] = [handler]
    made.propagate = False
    made.setLevel("INFO")
    return made


def ways() -> dict[str, Callable[[], None]]:
    """What writes one line in each way; where a library is not installed it is left out."""
    number = count()

    def writing(made: logging.Logger) -> Callable[[], None]:
        return lambda: made.info("chunk %d of the reply", next(number), extra=EXTRA)

    found = {"stdlib text": writing(logger_with("text", None))}
    found["voicespan JSON"] = writing(logger_with("ours", logs.RedactingFormatter()))
    if find_spec("pythonjsonlogger") is not None:
        from pythonjsonlogger.json import JsonFormatter

        words = "{asctime}{levelname}{name}{message}"
        found["python-json-logger"] = writing(logger_with("theirs", JsonFormatter(words, style="{")))
    if find_spec("structlog") is not None:
        import structlog

        chain = [structlog.processors.add_log_level, structlog.processors.TimeStamper("iso")]
        render = structlog.processors.JSONRenderer()
        make = structlog.PrintLoggerFactory(Nowhere())  # type: ignore[arg-type]
        theirs = structlog.wrap_logger(make(), processors=[*chain, render])
        ours = structlog.wrap_logger(make(), processors=[*chain, logs.processor, render])
        found["structlog JSON"] = lambda: theirs.info(f"chunk {next(number)} of the reply", **EXTRA)
        found["voicespan structlog"] = lambda: ours.info(f"chunk {next(number)} of the reply", **EXTRA)
    return found


def redactions() -> dict[str, Callable[[], object]]:
    number = count()
    return {
        "redact seen": lambda: redact("the reply begins"),
        "redact new": lambda: redact(f"the reply begins, part {next(number)} of it"),
        "redact e-mail": lambda: redact(f"mail to bob.{next(number)}@example.com"),
        "redact 10 kB": lambda: redact(f"{next(number)} the model says so and so " * 400),
    }


def cost_us(work: Callable[[], object], times: int) -> float:
    begin = time.process_time_ns()
    for _ in range(times):
        work()
    return (time.process_time_ns() - begin) / times / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    arguments = parser.parse_args()

    recorder = BackgroundRecorder()
    logs.keep_origins()
    samples: dict[str, list[float]] = {}
    lines = ways()
    with Session(recorder, "call-7", transport="websocket") as session:
        turn = session.user_turn(input="text")
        with turn.llm(model="gpt"):
            for _ in range(arguments.rounds):
                for name, work in lines.items():
                    samples.setdefault(name, []).append(cost_us(work, LINES))
                for name, look in redactions().items():
                    samples.setdefault(name, []).append(cost_us(look, LINES // 100 if "kB" in name else LINES))
        turn.end()
    median = {name: statistics.median(values) for name, values in samples.items()}
    plain = median["stdlib text"]
    ratios = {name: round(value / plain, 2) for name, value in median.items() if not name.startswith("redact")}
    shown = {name: round(value, 2) for name, value in median.items()}
    print(json.dumps({"benchmark": "logs", "median_us": shown, "ratio_to_stdlib_text": ratios}, indent=2))


if __name__ == "__main__":
    main()
