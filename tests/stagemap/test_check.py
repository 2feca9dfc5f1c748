"""`voicespan stages`: what is said of a stage map before a service runs with it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from click.testing import CliRunner, Result

from voicespan.cli import main
from voicespan.stagemap.document import StageMapError, read, schema

from .test_stagemap import DESIGN

HERE = Path(__file__).parent


def write(folder: Path, document: object) -> Path:
    """A file with this map."""
    file = folder / "voicespan.yaml"
    file.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    return file


@pytest.fixture
def check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give a function that checks a map beside the service of the tests."""
    monkeypatch.chdir(HERE)

    def run(document: object, *options: str) -> Result:
        return CliRunner().invoke(main, ["stages", "check", str(write(tmp_path, document)), *options])

    return run


def test_a_right_map_is_shown_with_the_place_of_each_name(check: Any) -> None:
    """Each hook is listed with its file, line and kind, nothing of the service is imported, and the status is 0."""
    found = check(DESIGN)
    assert found.exit_code == 0, found.output
    assert "stages.llm           callbot.llm:Client.stream  async generator method, callbot/llm.py:" in found.output
    assert "turn.committed       callbot.turns:on_end_of_turn  coroutine, callbot/turns.py:" in found.output
    assert "sample_rate is not set: 16000 is assumed" in found.output
    assert "callbot.llm" not in sys.modules


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"stages": {"llm": "callbot.llm:Client.strem"}}, "there is no 'strem' in Client: did you mean 'stream'?"),
        ({"stages": {"llm": "callbot.lm:Client.stream"}}, "there is no module 'lm' in callbot: did you mean 'llm'?"),
        ({"stages": {"llm": "calbot.llm:Client.stream"}}, "there is no module 'calbot': did you mean 'callbot'?"),
        ({"stages": {"llm": "callbot.llm:Clent.stream"}}, "did you mean 'Client'?"),
        ({"stages": {"llm": "callbot.llm:Client"}}, "Client is a class, not a function"),
        (
            {"stages": {"llm": {"call": "callbot.llm:Client.stream", "model": "arg.modell"}}},
            "arg.modell: there is no such parameter (there are: prompt)",
        ),
        ({"stages": {"tool": {"call": "callbot.llm:look_up", "name": "self.name"}}}, "self.name: function has no self"),
        ({"session": {"enter": "callbot.tts:Synth.stream"}}, "a generator function cannot be a session"),
    ],
)
def test_what_would_not_work_is_said(check: Any, part: dict[str, Any], said: str) -> None:
    """A wrong name, a wrong parameter and a wrong kind are found without running anything, and the status is 1."""
    found = check(part)
    assert found.exit_code == 1
    assert said in found.output


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"stage": {}}, "'stage' was unexpected"),
        ({"stages": {"llm": "no colon"}}, "stages.llm: 'no colon' is not package.module:function"),
        ({"turn": {"committed": {"at": "arg.x"}}}, "'call' is a required property"),
        ({"session": {"start": "a:b"}}, "'end' is a dependency of 'start'"),
        ("stages: [", "is no YAML"),
        ("", "is not of type 'object'"),
    ],
)
def test_a_file_of_another_form_is_refused_with_its_place(check: Any, document: object, said: str) -> None:
    """What the schema does not allow is said with its place in the file."""
    found = check(document)
    assert found.exit_code == 1
    assert said in found.output


def test_json_says_the_same(check: Any) -> None:
    """With --json there is one object for each hook."""
    found = json.loads(check(DESIGN, "--json").output)
    llm = next(each for each in found if each["role"] == "stages.llm")
    assert llm["target"] == "callbot.llm:Client.stream"
    assert llm["found"]["kind"] == "async generator method"
    assert llm["problems"] == []


def test_import_finds_what_the_source_does_not_show(
    check: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A function that is made while the module runs is a note, and is found with --import."""
    (tmp_path / "made_at_run_time.py").write_text(
        "import sys\nglobals()['answer'] = lambda text: text\nother = answer\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    noted = check({"stages": {"llm": "made_at_run_time:other"}})
    assert noted.exit_code == 0
    assert "try --import" in noted.output
    assert check({"stages": {"llm": "made_at_run_time:other"}}, "--import").exit_code == 0
    (tmp_path / "breaks.py").write_text("x = 1 / 0\nanswer = x\n")
    broken = check({"stages": {"llm": "breaks:answer"}}, "--import")
    assert broken.exit_code == 1
    assert "cannot be imported: ZeroDivisionError" in broken.output


def test_imported_and_inherited_names_are_followed(check: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that a module imports, and a method of a base class, are found where they are defined."""
    (tmp_path / "facade.py").write_text(
        "from callbot.llm import Client as Model\nclass Mine(Model):\n    pass\nfrom callbot.ws import answer\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    found = check({"stages": {"llm": ["facade:Model.stream", "facade:Mine.stream", "facade:answer"]}})
    assert found.exit_code == 0, found.output
    assert found.output.count("callbot/llm.py:") == 2
    assert found.output.count("callbot/ws.py:") == 1


def test_the_schema_is_one(check: Any) -> None:
    """`voicespan stages schema` prints a valid JSON schema, which the map of the design satisfies."""
    printed = json.loads(CliRunner().invoke(main, ["stages", "schema"]).output)
    assert printed == schema()
    jsonschema.Draft202012Validator.check_schema(printed)
    jsonschema.validate(DESIGN, printed)


def test_every_map_in_the_documentation_is_valid() -> None:
    """The examples of docs/stage-map.md are maps of the schema."""
    text = (HERE.parents[1] / "docs" / "stage-map.md").read_text()
    found = re.findall(r"^```yaml\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    assert len(found) > 3
    for block in found:
        jsonschema.validate(yaml.safe_load(block), schema())


def test_a_missing_file_is_an_error_of_ours(tmp_path: Path) -> None:
    """A file that is not there is said by its name."""
    with pytest.raises(StageMapError, match=r"cannot read .*nowhere.yaml"):
        read(tmp_path / "nowhere.yaml")


SERVICE = """
import asyncio, time
from callbot import llm, tts, ws, vad, turns

async def body():
    detector = vad.Detector()
    detector.on_speech()
    detector.on_silence(time.monotonic_ns())
    await (await turns.on_end_of_turn(ws.answer))

print(asyncio.run(ws.handle("call-1", body)))
"""


def test_a_service_started_with_a_map_sends_its_turns(tmp_path: Path) -> None:
    """An unmodified program, with nothing but its environment changed, prints a whole turn as spans."""
    (tmp_path / "main.py").write_text(SERVICE)
    environ = {
        "PATH": str(Path(sys.executable).parent), "HOME": str(tmp_path), "PYTHONPATH": str(HERE),
        "VOICESPAN_STAGES": str(write(tmp_path, DESIGN)), "OTEL_TRACES_EXPORTER": "console",
        "OTEL_METRICS_EXPORTER": "none", "OTEL_SERVICE_NAME": "callbot",
    }  # fmt: skip
    command = [sys.executable, "-m", "voicespan", "run", "--", "python", "main.py"]
    done = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "bye call-1" in done.stdout
    for name in ("voice.turn", "vad.endpoint", "asr.finalize", "llm.ttft", "tts.first_audio", "voice.response"):
        assert f'"name": "{name}"' in done.stdout, (name, done.stderr)


def test_a_wrong_map_does_not_stop_the_service(tmp_path: Path) -> None:
    """The service starts without its map, and one line says what is wrong with it."""
    (tmp_path / "main.py").write_text("print('served')\n")
    environ = {
        "PATH": str(Path(sys.executable).parent), "HOME": str(tmp_path),
        "VOICESPAN_STAGES": str(write(tmp_path, {"stages": {"llm": 7}})),
        "OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none", "OTEL_SERVICE_NAME": "callbot",
    }  # fmt: skip
    command = [sys.executable, "-m", "voicespan", "run", "--", "python", "main.py"]
    done = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "served\n")
    assert "voicespan: stages: " in done.stderr
    assert "stages.llm: 7" in done.stderr
