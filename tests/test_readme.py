"""What the README and the guide tell the reader to type works.

Python blocks are run, each with stand-ins for the reader's own parts (detector, model, voice, socket). Shell commands
are looked up in `PROOFS`: a command that is not there fails, and so does a proof that no document needs any more.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
from importlib.metadata import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

import voicespan
from voicespan.diagnostics import counters
from voicespan.testing import VoiceRecorder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

ROOT = Path(__file__).parents[1]
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "benchmarks/README.md",
    "docs/back-ends.md",
    "docs/client.md",
    "docs/collector.md",
    "docs/guide.md",
    "docs/index.md",
    "docs/integrations.md",
    "docs/latency-test.md",
    "docs/logs.md",
    "docs/metrics.md",
    "docs/production.md",
    "docs/stage-map.md",
    "docs/troubleshooting.md",
)


def blocks(document: str, language: str) -> list[str]:
    """The fenced blocks of a document that are written in a language; those that name none have the language ""."""
    fences = re.findall(r"^ *```(\w*)\n(.*?)^ *```$", (ROOT / document).read_text(), flags=re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(text) for found, text in fences if found == language]


def snippets() -> list[Any]:
    """Every Python block, named by its document and place."""
    return [
        pytest.param(block, id=f"{Path(document).stem}-{number}")
        for document in DOCUMENTS
        if document != "docs/logs.md"  # it sets up a whole process: test_the_page_of_logs_sets_up_a_process
        for number, block in enumerate(blocks(document, "python"))
    ]


def commands(document: str) -> list[str]:
    """Every shell command of a document, without its comment."""
    lines = [line for block in blocks(document, "sh") for line in block.splitlines()]
    return [line for line in (re.sub(r"\s+#.*$", "", line) for line in lines) if line]


# The reader's own parts


async def words() -> AsyncIterator[str]:
    """A model's stream."""
    for word in ("Nine ", "degrees."):
        await asyncio.sleep(0)
        yield word


async def frames() -> AsyncIterator[bytes]:
    """A synthesizer's stream: two frames of 20 ms at 24 kHz."""
    for _ in range(2):
        await asyncio.sleep(0)
        yield bytes(960)


async def answered(*_: object) -> Any:
    """A service that answers."""
    return words()


class Queue(list[Any]):
    """A queue with room."""

    put_nowait = list.append
    get_nowait = list.pop


@pytest.fixture
def stand_ins(voice: VoiceRecorder, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a block may name without saying where it comes from: a call in which the reply is heard."""
    monkeypatch.setattr(voicespan, "session", lambda **options: voice.session(options.pop("id", None), **options))
    session = voice.session()
    onset_ns = voice.clock.now_ns
    turn = session.user_turn()
    turn.speech_ended()
    turn.committed()
    turn.transcript()
    with turn.tts(voice="anna") as tts:
        tts.audio(5.0)
    turn.audio_sent(5.0)
    voice.clock.advance(ms=100)
    now_ns = voice.clock.now_ns
    return {
        "voicespan": voicespan,
        "session": session,
        "turn": turn,
        "onset_ns": onset_ns,
        "end_ns": onset_ns + 1,
        "resumed_ns": onset_ns + 2,
        "resumed_end_ns": onset_ns + 3,
        "heard": now_ns,
        **{f"t{index}": now_ns + index for index in range(4)},
        "recognizer": SimpleNamespace(finish=answered),
        "client": SimpleNamespace(create=answered),
        "worker": SimpleNamespace(synthesize=lambda _: frames()),
        "socket": SimpleNamespace(send_bytes=answered, send_json=answered),
        "message": {"type": "clock"},
        "app": Starlette(),
        "calls": {},
        "token_between_us": "secret",
        "open_calls": {"one"},
        "heard_ns": now_ns,
        "silent_ns": now_ns,
        "get_weather": answered,
        "sentence_is_complete": lambda reply: len(reply) > 1,
        "queue": Queue(),
        "audio": b"",
        "text": "",
        "prompt": "",
        "reply": [],
    }


def run_block(block: str, names: dict[str, Any]) -> None:
    """Run a block as if it stood inside a coroutine."""
    result = eval(compile(block, "block", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)
    if inspect.iscoroutine(result):
        asyncio.run(result)


@pytest.mark.parametrize("block", snippets())
def test_snippets_run(block: str, stand_ins: dict[str, Any]) -> None:
    """Every Python block runs, and none of its marks is refused, too late, or fails inside."""
    run_block(block, stand_ins)
    for test in [value for name, value in stand_ins.items() if name.startswith("test_")]:
        test(VoiceRecorder())
    assert {key: count for key, count in counters.snapshot().items() if count} == {}


def test_the_readme_answers_a_call(voice: VoiceRecorder, stand_ins: dict[str, Any]) -> None:
    """The README's pipeline makes a completed turn of every utterance, with the spans that the README promises."""
    run_block(blocks("README.md", "python")[0], stand_ins)

    async def utterances() -> AsyncIterator[Any]:
        yield SimpleNamespace(onset_ns=voice.clock.now_ns, end_ns=voice.clock.advance(ms=700), text="How cold is it?")
        voice.clock.advance(ms=200)

    model, speaker = SimpleNamespace(reply=lambda _: words()), SimpleNamespace(speak=lambda _: frames())
    asyncio.run(stand_ins["call"](utterances(), model, speaker, SimpleNamespace(send_bytes=answered)))
    turn = voice.turns[-1]
    assert turn.outcome == "completed"
    expected = {"vad", "vad.endpoint", "asr", "llm", "llm.ttft", "tts", "tts.first_audio", "playback", "voice.response"}
    assert expected <= {span.name for span in turn.spans}
    assert turn["tts"].attributes["voice.audio.duration_s"] == 0.04


def test_the_page_of_a_client_finds_what_it_names(stand_ins: dict[str, Any]) -> None:
    """The script is served where the page asks for it, and knows every option and call that the page uses."""
    run_block(blocks("docs/client.md", "python")[0], stand_ins)
    (page,), (script,) = blocks("docs/client.md", "html"), blocks("docs/client.md", "js")
    with TestClient(stand_ins["app"]) as client:
        (address,) = re.findall(r'src="([^"]+)"', page)
        assert "class PerformanceTracker" in client.get(address).text
        assert client.post(*re.findall(r'serverEndpoint: "([^"]+)"', page), json={}).status_code == 400  # it is heard
    typed = (ROOT / "browser/performance-tracker.d.ts").read_text()
    used = [*re.findall(r"(\w+): ", page), *re.findall(r"perfTracker\.(\w+)\(", script)]
    assert len(used) > 4
    assert [name for name in used if not re.search(rf"\b{name}\b", typed)] == []


def test_the_page_of_logs_sets_up_a_process() -> None:
    """With its lines at the start of a program, the program logs JSON."""
    (block,) = blocks("docs/logs.md", "python")
    program = block + "\nimport logging\nlogging.getLogger('app').info('hello')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    (line,) = (json.loads(line) for line in done.stdout.splitlines() if '"app"' in line)
    assert (line["message"], line["level"]) == ("hello", "INFO")


# Shell commands


def make(*arguments: str) -> str:
    """What make would do in a checkout that is installed already."""
    line = ["make", "--dry-run", "-o", ".venv/dev.stamp", "-o", ".venv/demo.stamp", *arguments]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def proves_demo() -> None:
    """`make demo` starts the demo; tests/e2e runs that very command and looks at what it says."""
    assert "voicespan demo --no-browser --exit" in make("demo")
    arguments = ('"demo"', '"--no-browser"', '"--exit"')
    assert any(all(word in path.read_text() for word in arguments) for path in (ROOT / "tests/e2e").glob("test_*.py"))


def proves_checks() -> None:
    """`make lint` and `make test` are what `.ci/run` runs on a fresh machine: this test is a part of it."""
    script = (ROOT / ".ci/run").read_text()
    assert "\nmake lint" in script
    assert "\nmake test" in script
    assert os.access(ROOT / ".ci/run", os.X_OK)
    assert re.search(r"-m pytest.* -k barge_in", make("test", "ARGS=-k barge_in"))
    assert "-m tests.requirements build/tests.xml" in make("requirements")
    assert re.search(r"ruff check\n.*ruff format --check\n.*mypy", make("lint"))


def proves_failures() -> None:
    """`make failures` runs what tests/test_failures.py holds the page to."""
    assert re.search(r"-m pytest.* -m failure.*\n.*-m tests\.failures", make("failures"))


def proves_format() -> None:
    """`make format` is `make lint` with the mending options of the same tools."""
    assert re.search(r"ruff check --fix\n.*ruff format\n", make("format"))


def proves_docs() -> None:
    """`make docs` writes the pages that are there now."""
    assert "> docs/names.md" in make("docs")
    for module in ("names", "settings"):
        done = subprocess.run([sys.executable, "-m", f"voicespan.{module}"], capture_output=True, text=True, check=True)
        assert done.stdout == (ROOT / f"docs/{module}.md").read_text(), f"docs/{module}.md is old: make docs"


def proves_programs() -> None:
    """`make programs` builds what the tests run; it takes minutes, so `.ci/run` does it before the tests."""
    scripts = ("collector", "prometheus", "livekit")
    assert {f"scripts/{name}" for name in scripts} <= set(make("programs").split())
    assert "scripts/collector" in make("collector")
    assert "\nmake programs" in (ROOT / ".ci/run").read_text()
    assert all(os.access(ROOT / "scripts" / name, os.X_OK) for name in (*scripts, "go", "go-build"))


def proves_deploy() -> None:
    """`make deploy` writes the files that are there now: tests/stack/test_generated.py compares every one."""
    assert "-m voicespan.stack.generate" in make("deploy")
    assert "make deploy" in (ROOT / "tests/stack/test_generated.py").read_text()


def proves_bench() -> None:
    """`make bench` runs every measurement; none runs here, where the machine is busy, but each can be loaded."""
    assert "benchmarks/bench.py recording" in make("bench", "ARGS=recording")
    scripts = sorted((ROOT / "benchmarks").rglob("*.py"))
    assert scripts
    for script in scripts:
        compile(script.read_text(), script, "exec")


def proves_bench_check() -> None:
    """`make bench-check` runs what tests/test_benchmarks.py asks for its verdicts; nothing is measured here."""
    assert "benchmarks/check.py frames" in make("bench-check", "ARGS=frames")
    assert '"check.py"' in (ROOT / "tests/test_benchmarks.py").read_text()


def proves_fuzz() -> None:
    """`make fuzz` needs Atheris, which is not here; tests/test_fuzz.py feeds the same targets without it."""
    assert "fuzz.run spool_file" in make("fuzz", "ARGS=spool_file")
    assert "from fuzz.targets import TARGETS" in (ROOT / "tests/test_fuzz.py").read_text()
    compile((ROOT / "fuzz/run.py").read_text(), "fuzz/run.py", "exec")


def proves_site() -> None:
    """`make site` builds the pages that test_site.py builds and looks at."""
    assert "mkdocs build" in make("site")
    assert '"mkdocs", "build"' in (ROOT / "tests/test_site.py").read_text()


def proves_lock() -> None:
    """`make lock` is not run, since it needs the network; test_packaging.py holds its results to what they promise."""
    assert "scripts/lock" in make("lock")
    assert os.access(ROOT / "scripts/lock", os.X_OK)


def proves_pip() -> None:
    """The extras of the line exist; test_packaging.py installs the package with pip and its extras with uv."""
    assert {"ui", "fastapi", "grpc"} <= set(metadata("voicespan").get_all("Provides-Extra") or ())


def proves_session() -> None:
    """`test_the_readme_session` types these lines, one after the other."""
    assert "bot.py" in inspect.getsource(test_the_readme_session)


def proves_run_ui() -> None:
    """tests/local/test_beside.py starts that very command with a bot of its own."""
    assert '"run", "--ui"' in (ROOT / "tests/local/test_beside.py").read_text()


def proves_spool() -> None:
    """tests/processes/test_spool.py starts services with that variable, and looks at what they leave."""
    assert "VOICESPAN_SPOOL_DIR=" in (ROOT / "tests/processes/test_spool.py").read_text()


def proves_run_name() -> None:
    """tests/processes/test_start.py starts a service with `VOICESPAN_RUN`; the rest of the line has a proof already."""
    assert "VOICESPAN_RUN=" in (ROOT / "tests/processes/test_start.py").read_text()
    proves_run_ui()


def proves_content() -> None:
    """Both commands are run with `--content`: by tests/processes/test_viewer.py, and by the demo's tests."""
    assert '"--ui", "--content"' in (ROOT / "tests/processes/test_viewer.py").read_text()
    assert '"demo", "--content"' in (ROOT / "tests/e2e/test_demo.py").read_text()


def proves_transfer() -> None:
    """tests/local/test_transfer.py carries turns from one database to another with these commands."""
    script = (ROOT / "tests/local/test_transfer.py").read_text()
    assert all(words in script for words in ('"export", "--all", "-o"', '"export", "last", "-o"', '"import", str('))


def proves_other_machines() -> None:
    """tests/local/test_commands.py starts a viewer for other machines, and reads the link that it was given."""
    script = (ROOT / "tests/local/test_commands.py").read_text()
    assert '"--host", "0.0.0.0"' in script
    assert '"--trace-link", "https://tempo.example/{trace_id}"' in script


def proves_terminal() -> None:
    """tests/local/test_origin.py, test_comparison.py and tests/e2e/test_terminal.py run these with the same options."""
    scripts = "".join(
        (ROOT / f"tests/{name}.py").read_text()
        for name in ("local/test_origin", "local/test_comparison", "local/test_commands", "e2e/test_terminal")
    )
    for words in (
        '"turns", "--sort", "response"', '"--stage", "llm", "--over"', '"--outcome"', 'run("compare", place',
        '"--since"', '"export", "--all", "--csv"', '("--from", tempo.url)', '"--slower-than"', "2h..1h",
    ):  # fmt: skip
        assert words in scripts, words


def proves_scrape() -> None:
    """tests/metrics/test_scrape.py starts services with that variable and scrapes them."""
    assert "VOICESPAN_PROMETHEUS_PORT=" in (ROOT / "tests/metrics/test_scrape.py").read_text()


def proves_stages() -> None:
    """tests/stagemap/test_check.py checks maps with the command, the page's own too, and starts services with one."""
    script = (ROOT / "tests/stagemap/test_check.py").read_text()
    assert all(words in script for words in ('"stages", "check"', '"VOICESPAN_STAGES"', '"stage-map.md"'))


def proves_compose() -> None:
    """The file of settings that is copied is there; `voicespan stack up --compose` gives Docker the same line."""
    assert "=" in (ROOT / "deploy/.env.example").read_text()
    assert '"up", "--detach", "--wait"' in (ROOT / "src/voicespan/stack/command.py").read_text()


def proves_slo() -> None:
    """tests/stack/test_generated.py writes the rules of this file, tests/e2e/test_stack_command.py has them read."""
    assert '"slo", str(DEPLOY / "slo.yaml"), "--output"' in (ROOT / "tests/stack/test_generated.py").read_text()
    assert '"stack", "reload"' in (ROOT / "tests/e2e/test_stack_command.py").read_text()


def proves_health() -> None:
    """These are the ports of the example of a service, of the Collector as a process, and of the containers."""
    assert "HEALTH_ENDPOINT:-127.0.0.1:13133}" in (ROOT / "deploy/otel-collector.yaml").read_text()
    compose = (ROOT / "deploy/compose.yaml").read_text()
    assert all(f'ports: ["127.0.0.1:{port}:{port}"]' in compose for port in (9090, 3000))
    assert "--port 8010" in (ROOT / "examples/tts/README.md").read_text()


def proves_doctor() -> None:
    """tests/doctor seeds what each of these looks for, and asks the back ends and a service; these are its options."""
    command = [sys.executable, "-m", "voicespan", "doctor", "--help"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert all(f"  --{name} " in said for name in ("prometheus", "tempo", "grafana", "import", "service", "offline"))
    script = (ROOT / "tests/doctor/test_command.py").read_text()
    assert all(name in script for name in ('"--import", "bot"', '"--offline"'))


def proves_latency_test() -> None:
    """tests/latency calls agents with these options; what pytest runs, test_benchmarks.py of tests/e2e runs too."""
    script = (ROOT / "tests/latency/test_command.py").read_text()
    assert all(name in script for name in ('"--calls"', '"--save"', '"--baseline"', "target"))
    assert "tests/performance" in (ROOT / "tests/e2e/test_benchmarks.py").read_text()


def proves_latency_test_in_rooms() -> None:
    """tests/latency calls a real worker in the rooms of a real server, with these options and this environment."""
    script = (ROOT / "tests/latency/test_room.py").read_text()
    assert all(name in script for name in ('"--protocol", "livekit"', '"--agent"', "LIVEKIT_URL", "LIVEKIT_API_KEY"))


def proves_score() -> None:
    """tests/local/test_scoring.py scores a turn with these options."""
    assert '"score", "last", "--name", "helpful", "--value"' in (ROOT / "tests/local/test_scoring.py").read_text()


def proves_machine() -> None:
    """tests/processes/test_start.py types the page's command, and scrapes what it starts."""
    assert '"docs/metrics.md"' in (ROOT / "tests/processes/test_start.py").read_text()


def proves_venv() -> None:
    """A folder with an `activate` is what Python's own module makes of the first word, and the shell of the second."""
    assert (ROOT / ".venv/bin/activate").is_file()


PROOFS: dict[str, Callable[[], None]] = {
    r"make demo": proves_demo,
    r"make (test|lint|requirements)": proves_checks,
    r"make failures": proves_failures,
    r"make format": proves_format,
    r"make docs": proves_docs,
    r"make deploy": proves_deploy,
    r"make bench( ARGS=.*)?": proves_bench,
    r"make bench-check( ARGS=.*)?": proves_bench_check,
    r"make fuzz": proves_fuzz,
    r"make (collector|programs)": proves_programs,
    r"make lock": proves_lock,
    r"make site": proves_site,
    r"pip install '\.\[ui(,fastapi,grpc)?\]'": proves_pip,
    r"voicespan (ui|turns|doctor|show ([0-9a-f]{12}|[0-9a-f]{32}|last))": proves_session,
    r"(OTEL_SERVICE_NAME=bot )?voicespan run --ui -- python bot\.py": proves_run_ui,
    r"python3 -m venv venv && \. venv/bin/activate": proves_venv,
    r"VOICESPAN_RUN=\S+ voicespan run --ui -- python bot\.py": proves_run_name,
    r"voicespan run --ui --content -- python bot\.py|voicespan demo --content": proves_content,
    r"(OTEL_\w+=\S+ )+voicespan run -- python bot\.py": proves_session,
    r"VOICESPAN_SPOOL_DIR=\S+ OTEL_\w+=\S+ voicespan run -- python bot\.py": proves_spool,
    r"voicespan (export (last|--all) -o \w+\.json|import \w+\.json)": proves_transfer,
    r"voicespan (turns --(sort|stage|from) .*|compare( 2h\.\.1h 1h\.\.)?)": proves_terminal,
    r"voicespan export --all --csv -o \w+\.csv": proves_terminal,
    r"voicespan score last --name helpful --value 1 --label thumbs_up": proves_score,
    r"VOICESPAN_PROMETHEUS_PORT=9464 voicespan run -- python bot\.py": proves_scrape,
    r"OTEL_SERVICE_NAME=machine .*": proves_machine,
    r"VOICESPAN_STAGES=\S+ voicespan run -- uvicorn app:app|voicespan stages check voicespan\.yaml": proves_stages,
    r"cp deploy/\.env\.example deploy/\.env|docker compose -f deploy/compose\.yaml up --detach --wait": proves_compose,
    r"voicespan slo deploy/slo\.yaml --output deploy/prometheus/rules|voicespan stack reload": proves_slo,
    r"voicespan doctor --(prometheus .* --tempo .* --grafana .*|import bot|service .*|offline)": proves_doctor,
    r"voicespan latency-test ws://.*": proves_latency_test,
    r"export LIVEKIT_URL=.*|voicespan latency-test --protocol livekit.*": proves_latency_test_in_rooms,
    r"pytest tests/performance/ -v -m (benchmark|regression)": proves_latency_test,
    r"curl http://localhost:(8010/(health|prometheus)|13133/|9090/api/v1/targets|3000/api/health)": proves_health,
    r"voicespan ui (--host 0\.0\.0\.0|--trace-link '\S+\{trace_id\}')": proves_other_machines,
}
COMMANDS = sorted({command for document in DOCUMENTS for command in commands(document)})


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_proved(command: str) -> None:
    """Every command of the documents has a proof, and the proof holds."""
    proofs = [proof for pattern, proof in PROOFS.items() if re.fullmatch(pattern, command)]
    assert len(proofs) == 1, f"who proves {command!r}?"
    proofs[0]()


def test_no_proof_is_left_over() -> None:
    """Every proof belongs to a command that a document has."""
    assert [pattern for pattern in PROOFS if not any(re.fullmatch(pattern, command) for command in COMMANDS)] == []


BOT = """

import asyncio
import os
import time
from types import SimpleNamespace


async def stream(*items):
    for item in items:
        await asyncio.sleep(0.01)
        yield item


async def utterances():
    onset_ns = time.monotonic_ns()
    await asyncio.sleep(0.1)
    yield SimpleNamespace(onset_ns=onset_ns, end_ns=time.monotonic_ns(), text="How cold is it?")


async def send_bytes(frame):
    pass


model = SimpleNamespace(reply=lambda text: stream("Nine ", "degrees."))
voice = SimpleNamespace(speak=lambda text: stream(bytes(960), bytes(960)))
asyncio.run(call(utterances(), model, voice, SimpleNamespace(send_bytes=send_bytes)))
"""


class Terminal:
    """A reader's terminal: a folder, an environment, and the lines of a document."""

    def __init__(self, folder: Path, **variables: str) -> None:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "VOICESPAN_", "PY"))}
        self.environment = {**kept, "PATH": path, "HOME": str(folder), **variables}
        self.folder = folder

    def type(self, line: str) -> subprocess.CompletedProcess[str]:
        """Type a line and wait for its end."""
        return subprocess.run(["/bin/sh", "-c", line], cwd=self.folder, env=self.environment, text=True,
                              capture_output=True, check=False, timeout=50)  # fmt: skip

    def start(self, line: str) -> subprocess.Popen[str]:
        """Type a line that goes on until it is stopped; what it says on either channel comes out of its stdout."""
        return subprocess.Popen(shlex.split(line), cwd=self.folder, env=self.environment, text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip


@pytest.mark.alone
def test_the_readme_session(tmp_path: Path) -> None:
    """The README's commands, typed in their order, show the turn of the README's own pipeline."""
    lines = [line for line in commands("README.md") if "voicespan " in line]
    receive, run, turns, show, export, production, doctor = lines
    (tmp_path / "bot.py").write_text(blocks("README.md", "python")[0] + BOT)
    terminal = Terminal(tmp_path, PYTHONUNBUFFERED="1", COLUMNS="120")
    receiver = terminal.start(receive)
    try:
        assert receiver.stdout
        # Port 4318 may be taken on this machine: then the receiver says which other one it took.
        endpoint = next(found[0] for line in receiver.stdout if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
        terminal.environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = endpoint
        done = terminal.type(run)
        assert done.returncode == 0, done.stderr
        assert "completed" in terminal.type(turns).stdout
        listed = json.loads(terminal.type(f"{turns} --json").stdout)
        shown = terminal.type(re.sub(r"[0-9a-f]{32}", listed[0]["trace_id"], show))
        assert shown.returncode == 0, shown.stderr
        assert "llm.ttft" in shown.stdout
        assert terminal.type(f"voicespan show {listed[0]['trace_id'][:12]}").stdout == shown.stdout
        assert terminal.type("voicespan show last").stdout == shown.stdout
        assert listed[0]["trace_id"][:12] in terminal.type("voicespan turns --sort response").stdout
        assert terminal.type(export).stderr == "1 trace\n"
        assert listed[0]["trace_id"] in (tmp_path / "slow.json").read_text()
        # There is no host called collector here, so the address is the only word that changes.
        done = terminal.type(re.sub(r"http://collector:4318", endpoint, production))
        assert done.returncode == 0, done.stderr
        assert len(json.loads(terminal.type(f"{turns} --json").stdout)) == 2
        assert "distro" in terminal.type(doctor).stdout
    finally:
        receiver.terminate()
        receiver.communicate(timeout=10)


# What the words promise


def test_the_span_tree_is_the_one_of_the_names() -> None:
    """The tree in the README has the spans of the names module, each below its parent."""
    from voicespan import names

    tree = next(block for block in blocks("README.md", "") if block.startswith("voice.turn"))
    path: list[str] = []
    shown: dict[str, str] = {}
    for line in tree.splitlines():
        indent, name = re.match(r"([├└─│ ]*)(\S+( \{\w+\})?)", line).group(1, 2)  # type: ignore[union-attr]
        path[len(indent) // 3 :] = [name]
        shown[re.sub(r" \{.*", "", name)] = path[-2] if len(path) > 1 else ""
    known = {re.sub(r" \{.*", "", span.name): span.parent or "" for span in names.SPANS}
    assert {name: known.get(name) for name in shown} == shown


def test_the_guide_names_everything_public() -> None:
    """Every name that the package offers is in the guide."""
    guide = (ROOT / "docs/guide.md").read_text()
    assert [name for name in voicespan.__all__ if f"voicespan.{name}" not in guide] == []


def test_links_lead_to_files() -> None:
    """Every relative link of the documents leads to a file of the repository."""
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        links = re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", document.read_text())
        assert [link for link in links if not (document.parent / link).exists()] == [], document.name


def test_the_architecture_shows_every_room() -> None:
    """Every module and folder of the package and of its viewer is in its table, and nothing else is."""
    text = (ROOT / "docs/architecture.md").read_text()
    package = ROOT / "src/voicespan"
    for heading, folder in (("Modules", package), ("The viewer", package / "local")):
        table = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
        rows = [line.split("|")[2] for line in table.splitlines() if line.startswith("|")]
        modules = {path.name for path in folder.glob("*.py")} - {"__init__.py", "version.py"}
        rooms = {f"{path.parent.name}/" for path in [*folder.glob("*/__init__.py"), *folder.glob("*/index.html")]}
        assert {name for row in rows for name in row.split("`")[1::2]} == modules | rooms
