"""What goes wrong while calls are held: each service is a real process, each back end a real socket.

In all of these the calls go on, their loop is not held up, memory stays where it was, and the spans that were lost are
exactly as many as is said.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from voicespan.sdk.batch import DROPPED, FAILED, KEPT, LATE

from . import faulty
from .receiver import nobody
from .service import RUN, Finished, Service

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

    from tests.conftest import Measured

CALLS = str(Path(__file__).with_name("calls.py"))
BLOCK_MS = 3_000
"""Generous, for a busy machine; what waits for a back end by mistake waits for longer."""
MEMORY_MB = 60
EXIT_S = 10
"""Generous as well: the bar of 2 s is measured in benchmarks/startup_exit.py."""
SIDE_BY_SIDE = 3

failure = pytest.mark.failure
KEEPS = "The queue keeps what it holds for when it is taken; the end says what is lost, and why"
RESTS = "It is left alone for as long as it asks; the queue keeps what it holds, and the end says what is lost"
FAILS = "Each batch is tried once, and counted with its reason; it is not asked for every batch"
UNSURE = "Sent again until it is answered; what never is counts as lost, though it may be there"
ARRIVES = "Everything arrives"
COUNTED = "Closed at the end of the process; what there is no time for is counted"
_SAID = re.compile(r"not sent: (?P<spans>\d+) spans? to")
_TURNS = re.compile(r"(?P<turns>\d+) turns? \(no time")


@dataclass
class Report:
    """What a service said at its end, and how many different spans the back end has seen."""

    said: dict[str, Any]
    done: Finished
    arrived: int = 0
    requests_s: list[float] = field(default_factory=list)

    @property
    def made(self) -> int:
        made: int = self.said["spans"]
        return made

    @property
    def lost(self) -> int:
        """What is counted as lost: said at the end, dropped, refused for good, or too late."""
        counts: dict[str, int] = self.said["counts"]
        return int(self.said["waiting"]) + sum(counts.get(name, 0) for name in (DROPPED, FAILED, LATE))

    @property
    def said_at_exit(self) -> int:
        found = _SAID.search(self.done.err)
        return int(found["spans"]) if found else 0

    @property
    def turns_said_at_exit(self) -> int:
        found = _TURNS.search(self.done.err)
        return int(found["turns"]) if found else 0


@dataclass
class Case:
    """One fault: the back end, what goes wrong in the process, and further settings."""

    back_end: Callable[[ExitStack, Path], tuple[str, faulty.BackEnd | None]]
    trouble: str = "nothing"
    environ: dict[str, str] = field(default_factory=dict)
    launcher: Callable[[Path], list[str]] = lambda _: list(RUN)

    def hold(self, folder: Path) -> Report:
        """Hold the calls while it goes wrong."""
        with ExitStack() as stack:
            url, seen = self.back_end(stack, folder)
            standard = {
                "OTEL_EXPORTER_OTLP_ENDPOINT": url,
                "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
                "OTEL_METRICS_EXPORTER": "none",
                "VOICESPAN_EXIT_TIMEOUT_S": "2",
            }
            environ = {name: value.format(folder=folder) for name, value in (standard | self.environ).items()}
            command = [sys.executable, CALLS, self.trouble]
            done = Service("", self.launcher(folder), command=command, **environ).finish(60)
            assert done.code == 0, done.err
            arrived = (seen.arrived, seen.requests_s) if seen is not None else (0, [])
            return Report(json.loads(done.out.splitlines()[-1]), done, *arrived)


def answers(answer: faulty.Answer) -> Callable[[ExitStack, Path], tuple[str, faulty.BackEnd]]:
    """Return a back end that answers so."""

    def begin(stack: ExitStack, _: Path) -> tuple[str, faulty.BackEnd]:
        back_end = stack.enter_context(faulty.BackEnd(answer))
        return back_end.url, back_end

    return begin


def untrusted(stack: ExitStack, folder: Path) -> tuple[str, faulty.BackEnd]:
    """A back end with a certificate that nobody trusts."""
    context = faulty.certificate(folder)
    back_end = stack.enter_context(faulty.BackEnd(faulty.says(faulty.OK), context=context))
    return back_end.url, back_end


def refuses(stack: ExitStack, _: Path) -> tuple[str, None]:
    """Nobody listens."""
    return stack.enter_context(nobody()), None


def unknown(_stack: ExitStack, _: Path) -> tuple[str, None]:
    """A name that no server of names knows."""
    return "http://no-such-host.invalid:4318", None


def disk(options: str) -> Callable[[Path], list[str]]:
    """Return how a service is started whose spool is on a file system of its own, mounted with these options."""

    def launch(folder: Path) -> list[str]:
        place = folder / "disk"
        place.mkdir()
        mount = f'mount -t tmpfs -o {options} none "{place}" && exec "$@"'
        return ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount, "sh", *RUN]

    return launch


WELL = answers(faulty.says(faulty.OK))
SPOOL = {"VOICESPAN_SPOOL_DIR": "{folder}/disk"}
CASES = {
    "well": Case(WELL),
    "refuses": Case(refuses),
    "hangs": Case(answers(faulty.hangs)),
    "429": Case(answers(faulty.status("429 Too Many Requests", "Retry-After: 30"))),
    "503": Case(answers(faulty.status("503 Service Unavailable"))),
    "401": Case(answers(faulty.status("401 Unauthorized"))),
    "garbage": Case(answers(faulty.says(b"\x00\xfe\r\n" * 40, stays=False))),
    "half": Case(answers(faulty.half)),
    "resets": Case(answers(faulty.resets)),
    "without end": Case(answers(faulty.without_end)),
    "slow": Case(answers(faulty.after(3))),
    "tls": Case(untrusted),
    "dns": Case(unknown),
    "clock": Case(answers(faulty.hangs), "clock_jumps"),
    "never end": Case(WELL, "turns_that_never_end"),
    "large": Case(WELL, "large_attributes"),
    "any order": Case(WELL, "marks_in_any_order"),
    "shut down": Case(WELL, "shut_down_under_load"),
    "overflow": Case(refuses, "many_at_once"),
    "disk full": Case(refuses, environ=SPOOL, launcher=disk("size=16k")),
    "read-only": Case(refuses, environ=SPOOL, launcher=disk("ro")),
}


@pytest.fixture(scope="module")
def reports(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the services of the selected tests said; a few run side by side."""
    wanted = [
        item.callspec.params["case"]
        for item in request.session.items
        if item.path == request.path and hasattr(item, "callspec") and "case" in item.callspec.params
    ]
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        yield {name: pool.submit(CASES[name].hold, tmp_path_factory.mktemp("case")) for name in dict.fromkeys(wanted)}


@pytest.fixture
def report(reports: dict[str, Future[Report]], case: str, measured: Measured) -> Report:
    """What the service said, and what holds in every case."""
    if case in {"disk full", "read-only"}:
        can_mount()
    it = reports[case].result()
    said = it.said
    measured(
        call=f"{said['frames']} of {said['expected_frames']} frames",
        block_ms=said["block_ms"],
        memory_mb=said["memory_mb"],
        lost=f"{it.lost:,} of {it.made:,} spans" + (f"; {turns:,} turns" if (turns := it.turns_said_at_exit) else ""),
    )
    assert said["frames"] == said["expected_frames"]
    assert said["block_ms"] < BLOCK_MS
    assert said["memory_mb"] < MEMORY_MB
    assert said["exit_s"] < EXIT_S
    assert said["threads"] < 10
    assert said["sent"] + said["counts"].get(KEPT, 0) + it.lost == it.made
    assert said["unsent"] == it.said_at_exit
    return it


@pytest.mark.parametrize(
    "case",
    [
        pytest.param("well", marks=failure("Nothing: what the others are compared with", ARRIVES)),
        pytest.param("without end", marks=failure("The back end's answer has no end", ARRIVES)),
        pytest.param("any order", marks=failure(
            "Every mark in wrong order, twice, from four threads, after the end", ARRIVES)),
    ],
)  # fmt: skip
def test_everything_arrives(report: Report) -> None:
    """Nothing is lost, and each span arrives."""
    assert report.lost == 0
    assert report.arrived == report.made


@pytest.mark.parametrize(
    ("case", "words"),
    [
        pytest.param("refuses", "connection refused", marks=failure("The back end refuses connections", KEEPS)),
        pytest.param("503", "503 Service Unavailable", marks=failure("The back end answers 503", KEEPS)),
        pytest.param(
            "429", "429 Too Many Requests", marks=failure("The back end answers 429 and asks for 30 s", RESTS)
        ),
        pytest.param("401", "401 Unauthorized", marks=failure("The back end answers 401", FAILS)),
        pytest.param("garbage", "\ufffd", marks=failure("The back end answers what is no HTTP", KEEPS)),
        pytest.param("tls", "certificate is not trusted", marks=failure("The certificate is not trusted", KEEPS)),
        pytest.param("dns", "unknown host name", marks=failure("The name of the back end is not known", KEEPS)),
    ],
)
def test_nothing_is_taken(report: Report, case: str, words: str) -> None:
    """All that was made is said to be lost at the end, with the reason; what asks for a rest is left alone."""
    assert (report.said["sent"], report.lost) == (0, report.made)
    assert words in report.done.line("at exit") or case == "garbage"
    if case == "429":
        assert len(report.requests_s) <= 2


@pytest.mark.parametrize(
    "case",
    [
        pytest.param("hangs", marks=failure("The back end takes requests and never answers", UNSURE)),
        pytest.param(
            "slow", marks=failure("The back end answers after three times the time-out (30 s by default)", UNSURE)
        ),
        pytest.param("half", marks=failure("The back end hangs up in the middle of its answer", UNSURE)),
        pytest.param("resets", marks=failure("The back end resets the connection in place of an answer", UNSURE)),
        pytest.param(
            "clock", marks=failure("The clock jumps 5 and 12 hours, both ways, while the back end hangs", UNSURE)
        ),
    ],
)
def test_nobody_knows_what_was_taken(report: Report) -> None:
    """What was posted without an answer counts as lost, though it may be there: nothing is lost that is not counted."""
    assert (report.said["sent"], report.lost) == (0, report.made)
    assert 0 < report.arrived <= report.made


@pytest.mark.parametrize(
    "case", [pytest.param("large", marks=failure("20 turns with 2 MB of attributes each", COUNTED))]
)
def test_large_attributes(report: Report) -> None:
    """What there was no time to write at the end is counted in turns; all that was written arrives."""
    assert report.said["turns"] + report.turns_said_at_exit == 3 + 60 + 20
    assert report.arrived >= report.said["sent"]


@pytest.mark.parametrize("case", [pytest.param("never end", marks=failure("10,000 turns that never end", COUNTED))])
def test_turns_that_never_end(report: Report) -> None:
    """They are closed at the end of the process; those that there was no time for are counted."""
    assert report.said["turns"] + report.turns_said_at_exit == 3 + 60 + 10_000
    assert report.arrived >= report.said["sent"]


@pytest.mark.parametrize("case", [pytest.param("shut down", marks=failure(
    "The provider is shut down under load", "What comes later is dropped and counted"))])  # fmt: skip
def test_a_provider_that_is_shut_down(report: Report) -> None:
    """What was made before arrives; each span after is counted as too late."""
    assert report.arrived == report.said["sent"] > 0
    assert report.lost == report.said["counts"][LATE] > 0


@pytest.mark.parametrize("case", [pytest.param("overflow", marks=failure(
    "More turns end at once than the queue holds", "The oldest make room, and are counted"))])  # fmt: skip
def test_a_queue_that_overflows(report: Report) -> None:
    """What is dropped from a full queue is counted, and the rest is said at the end."""
    assert report.said["counts"][DROPPED] > 0
    assert report.said["turns"] + report.turns_said_at_exit == 3 + 60 + 3_000
    assert report.said["unsent"] <= 2_048
    assert report.lost == report.made


def can_mount() -> None:
    """Skip where a process may have no file systems of its own."""
    tried = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "none", "/mnt"]
    if shutil.which("unshare") is None or subprocess.run(tried, capture_output=True, check=False).returncode:
        pytest.skip("needs unshare, and leave to mount a file system")


@pytest.mark.parametrize(
    ("case", "words"),
    [
        pytest.param("disk full", "No space left on device", marks=failure(
            "The spool's disk is full", "What fits is kept; the queue has the rest, which is said at the end")),
        pytest.param("read-only", "Read-only file system", marks=failure(
            "The spool's disk is read-only", "As without a spool: the queue keeps, and the end says what is lost")),
    ],
)  # fmt: skip
def test_a_disk_that_does_not_take_it(report: Report, case: str, words: str) -> None:
    """The queue keeps what the disk does not, and each span is on disk or said to be lost."""
    assert words in report.done.line("cannot be kept in")
    assert (report.said["counts"].get(KEPT, 0) > 0) is (case == "disk full")
    assert report.lost > 0
