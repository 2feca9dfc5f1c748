from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from voicespan import diagnostics, settings
from voicespan.settings import OTEL_DEFAULTS, VARIABLES, Settings

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Settings are read anew, and nothing has been said."""
    settings.reset()
    diagnostics.forget()
    yield
    settings.reset()
    diagnostics.forget()


def test_defaults() -> None:
    """An empty environment gives the documented defaults and no complaint."""
    read, problems = Settings.read({})
    assert (read.disabled, read.turn_max_s, read.turn_idle_s, read.exit_timeout_s) == (False, 600.0, 60.0, 2.0)
    assert (read.vad_hangover_ms, read.worker_id, read.genai_drafts, read.log_level) == (None, None, False, "warning")
    assert problems == ()


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("1", True), ("ON", True), ("false", False), ("no", False)]
)
def test_flags(text: str, value: bool) -> None:
    """A flag is understood in the usual spellings."""
    assert Settings.read({"VOICESPAN_DISABLED": text}) == (Settings(disabled=value), ())


def test_numbers_and_texts() -> None:
    """Numbers and texts are taken without the space around them; an empty value counts as not set."""
    environ = {"VOICESPAN_TURN_MAX_S": " 30.5 ", "VOICESPAN_WORKER_ID": "tts-0", "VOICESPAN_VAD_HANGOVER_MS": ""}
    read, problems = Settings.read(environ)
    assert (read.turn_max_s, read.worker_id, read.vad_hangover_ms, problems) == (30.5, "tts-0", None, ())


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("VOICESPAN_TURN_MAX_S", "ten", "a number of seconds above 0: using 600"),
        ("VOICESPAN_TURN_MAX_S", "0", "a number of seconds above 0: using 600"),
        ("VOICESPAN_TURN_MAX_S", "nan", "a number of seconds above 0: using 600"),
        ("VOICESPAN_TURN_IDLE_S", "inf", "a number of seconds above 0: using 60"),
        ("VOICESPAN_VAD_HANGOVER_MS", "-1", "a number of milliseconds, 0 or more: ignored"),
        ("VOICESPAN_DISABLED", "maybe", "true or false: using false"),
        ("VOICESPAN_LOG_LEVEL", "loud", "one of off, warning, debug: using warning"),
    ],
)
def test_a_bad_value_leaves_the_default(name: str, text: str, words: str) -> None:
    """A value that is not understood is named with what is expected, and the default stays in force."""
    read, problems = Settings.read({name: text})
    assert read == Settings()
    assert problems == (f"{name}={text!r} is not {words}",)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("VOICESPAN_TURN_MX_S", ": did you mean VOICESPAN_TURN_MAX_S?"),
        ("voicespan_disabled", ": did you mean VOICESPAN_DISABLED?"),
        ("VOICESPAN_ZZZ", ""),
    ],
)
def test_a_misspelt_name_is_told_with_the_nearest(name: str, hint: str) -> None:
    """A VOICESPAN_ name that does not exist is told, with the nearest one that does, if any is near."""
    assert Settings.read({name: "1"})[1] == (f"{name} is no variable of voicespan{hint}",)


def test_a_complaint_is_said_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The settings of the process are read once, and what is wrong is one line on stderr."""
    monkeypatch.setenv("VOICESPAN_TURN_IDLE_S", "soon")
    assert settings.current() is settings.current()
    assert capsys.readouterr().err == (
        "voicespan: VOICESPAN_TURN_IDLE_S='soon' is not a number of seconds above 0: using 60\n"
    )


def test_every_variable_is_described() -> None:
    """Every variable has a distinct name with the prefix, and a sentence."""
    names = [variable.name for variable in VARIABLES]
    assert len(set(names)) == len(names)
    assert all(name.startswith("VOICESPAN_") for name in names)
    assert all(variable.description.endswith(".") for variable in (*VARIABLES, *OTEL_DEFAULTS))


def test_the_page_is_the_one_that_is_generated() -> None:
    """docs/settings.md is what `python -m voicespan.settings` prints."""
    page = Path(__file__).parents[1] / "docs" / "settings.md"
    assert page.read_text() == settings.markdown()
