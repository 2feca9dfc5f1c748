"""Error budgets: what counts as bad, and who is told when."""

from __future__ import annotations

import json
import tomllib
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from click.testing import CliRunner

from voicespan import names as n
from voicespan.cli import main
from voicespan.stack import alerts, generate, slo
from voicespan.stack.objectives import BURNS, Burn, Objective, Objectives, ObjectivesError, parse

from .series import Series, case, histogram, series, spans

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SILENCE = Objective("heard-silence", n.SPAN_RESPONSE, 0.95, within=1.5)
SUCCESS = Objective("turn-success", n.SPAN_TURN, 0.995, outcomes=("completed", "interrupted"))
CLIENT = {"voice_measurement_point": "client"}
SERVER = {"voice_measurement_point": "server"}
SERVICE = {"deployment_environment_name": "production", "job": "voice-agent"}


def unanswered(duration_s: float, per_minute: float, reason: str) -> Series:
    """Turns in which nothing was heard."""
    return spans(n.SPAN_UNANSWERED, duration_s, per_minute, voice_turn_no_reply_reason=reason, **SERVER)


def share(objective: Objective) -> str:
    """The query for the share of bad events in five minutes."""
    return f'round({slo.errors("5m")}{{slo="{objective.name}"}}, 0.001)'


def one(objective: Objective) -> Objectives:
    """A file with one objective."""
    return Objectives(slos=(objective,))


@pytest.mark.covers("F-AL20")
def test_who_was_never_answered_counts_as_bad(judge: Callable[..., None]) -> None:
    """Of 60 answers in time, 30 late ones and 10 callers who hung up, 40 of 100 are bad; nobody else waited in vain."""
    given = (
        spans(n.SPAN_RESPONSE, 0.5, 60, **CLIENT, voice_turn_bottleneck="llm")
        | spans(n.SPAN_RESPONSE, 3, 30, **CLIENT, voice_turn_bottleneck="tts")
        | unanswered(8, 10, "user_left")
        | unanswered(1.2, 50, "superseded")
        | unanswered(8, 70, "no_speech")
        | unanswered(9, 70, "suppressed")
    )
    expected = case(given, share(SILENCE), 0.4, slo=SILENCE.name, **SERVICE, **CLIENT)
    judge([expected], one(SILENCE), ["slo.yml"])


def test_a_service_that_never_answers_is_all_bad(judge: Callable[..., None]) -> None:
    """Where no answer was ever observed, every caller who waited is a bad event, at the server."""
    expected = case(unanswered(8, 10, "user_left"), share(SILENCE), 1, slo=SILENCE.name, **SERVICE, **SERVER)
    judge([expected], one(SILENCE), ["slo.yml"])


def test_an_outage_is_all_bad_where_answers_were_heard(judge: Callable[..., None]) -> None:
    """When answers cease and callers hang up, the series in which the answers were counted turns bad."""
    answered = {
        name: values.replace("x60", "x20") + " " for name, values in spans(n.SPAN_RESPONSE, 0.5, 30, **CLIENT).items()
    }
    still = {name: f"{values}{30 * 20 if _grows(name) else 0}x40" for name, values in answered.items()}
    given = still | unanswered(8, 10, "user_left")
    judge([case(given, share(SILENCE), 1, "40m", slo=SILENCE.name, **SERVICE, **CLIENT)], one(SILENCE), ["slo.yml"])


def _grows(name: str) -> bool:
    """Whether a series of answers that took half a second counts them."""
    bound = next((part.split('"')[1] for part in name.split(", ") if part.startswith("le=")), "+Inf")
    return float(bound.replace("+Inf", "inf")) >= 0.5 and "_sum" not in name


def test_measurement_points_are_not_mixed(judge: Callable[..., None]) -> None:
    """Answers observed at the ear and at the server are two series; the unanswered are shared out over both."""
    given = (
        spans(n.SPAN_RESPONSE, 0.5, 75, **CLIENT)
        | spans(n.SPAN_RESPONSE, 3, 25, **SERVER)
        | unanswered(8, 20, "user_left")
    )
    tests = [
        case(
            given,
            f"{share(SILENCE)} and {slo.EVENTS}{{voice_measurement_point='{point}'}}",
            bad,
            slo=SILENCE.name,
            **SERVICE,
            voice_measurement_point=point,
        )
        for point, bad in (("client", 0.167), ("server", 1))
    ]
    judge(tests, one(SILENCE), ["slo.yml"])


def test_remote_write_writes_whole_seconds_otherwise(judge: Callable[..., None]) -> None:
    """A threshold of whole seconds is found as `5.0` (scrape) and as `5` (remote write)."""
    objective = Objective("patience", n.SPAN_RESPONSE, 0.9, within=5, burns=())
    scraped = spans(n.SPAN_RESPONSE, 3, 30, **CLIENT)
    written = {name.replace('.0"', '"'): values for name, values in scraped.items()}
    expected = {"slo": "patience", **SERVICE, **CLIENT}
    judge([case(given, share(objective), 0, **expected) for given in (scraped, written)], one(objective), ["slo.yml"])


@pytest.mark.covers("C-S06", "C-S05")
def test_turn_success(judge: Callable[..., None]) -> None:
    """Completed and interrupted turns of users are good, the rest bad; greetings and coughs do not count."""

    def turns(outcome: str, per_minute: float, **labels: str) -> Series:
        labels = {"voice_turn_initiator": "user", "voice_turn_outcome": outcome} | labels
        return spans(n.SPAN_TURN, 4, per_minute, **labels)

    given = (
        turns("completed", 70)
        | turns("interrupted", 10)
        | turns("error", 5)
        | turns("timeout", 5)
        | turns("no_reply", 10, voice_turn_no_reply_reason="user_left")
        | turns("no_reply", 90, voice_turn_no_reply_reason="no_speech")
        | turns("completed", 900, voice_turn_initiator="agent")
    )
    judge([case(given, share(SUCCESS), 0.2, slo=SUCCESS.name, **SERVICE)], one(SUCCESS), ["slo.yml"])


@pytest.mark.covers("C-S01", "C-S02", "C-S03")
def test_objectives_of_stages(judge: Callable[..., None], objectives: Objectives) -> None:
    """First audio, barge-in and jitter are held to the limits of the catalog, each in its own events."""
    frames = histogram("voice_audio_frame_jitter_seconds", (0.001, 0.005, 0.01, 0.02, 0.05), 0.015, 20, instance="a")
    given = (
        spans(n.SPAN_TTS_FIRST_AUDIO, 0.29, 30)
        | spans(n.SPAN_TTS_FIRST_AUDIO, 0.31, 10, voice_tts_voice_name="b")
        | spans(n.SPAN_BARGE_IN, 0.04, 10, voice_barge_in_phase="worker_pause")
        | spans(n.SPAN_BARGE_IN, 0.06, 10, voice_barge_in_phase="worker_pause", gen_ai_request_model="b")
        | spans(n.SPAN_BARGE_IN, 3, 10, voice_barge_in_phase="total")
        | frames
    )
    tests = [
        case(given, f'round({slo.errors("5m")}{{slo="{name}"}}, 0.001)', bad, slo=name, **SERVICE)
        for name, bad in (("first-audio", 0.25), ("barge-in", 0.5), ("jitter", 1))
    ]
    judge(tests, objectives, ["slo.yml"])


def history(*phases: tuple[int, float, float]) -> Series:
    """Answers of changing length: minutes, seconds of silence, and answers per minute."""
    found: dict[str, list[str]] = {}
    seen: dict[str, float] = {}
    for minutes, duration_s, per_minute in phases:
        for name, values in spans(n.SPAN_RESPONSE, duration_s, per_minute, minutes - 1, **CLIENT).items():
            grows = float(values.split("+")[1].split("x")[0])
            found.setdefault(name, []).append(f"{seen.get(name, 0):g}+{grows:g}x{minutes - 1}")
            seen[name] = seen.get(name, 0) + grows * minutes
    return {name: " ".join(values) for name, values in found.items()}


@pytest.mark.parametrize(
    ("burn", "given", "told"),
    [
        pytest.param(BURNS[0], [(90, 3, 10)], True, id="page"),
        pytest.param(BURNS[0], [(90, 0.5, 10)], False, id="page, health"),
        pytest.param(BURNS[0], [(75, 0.5, 10), (15, 3, 10)], False, id="page, short window only"),
        pytest.param(BURNS[0], [(80, 3, 10), (10, 0.5, 10)], False, id="page, long window only"),
        pytest.param(BURNS[0], [(90, 3, 0.5)], False, id="page, low traffic"),
        pytest.param(BURNS[1], [(300, 0.5, 1), (200, 3, 1)], True, id="ticket"),
        pytest.param(BURNS[1], [(460, 0.5, 1), (40, 3, 1)], False, id="ticket, short window only"),
        pytest.param(BURNS[1], [(460, 3, 1), (40, 0.5, 1)], False, id="ticket, long window only"),
        pytest.param(BURNS[1], [(500, 3, 0.1)], False, id="ticket, low traffic"),
    ],
)
@pytest.mark.covers("F-AL20")
def test_burn(burn: Burn, given: list[tuple[int, float, float]], told: bool, judge: Callable[..., None]) -> None:
    """An alert on the budget needs both of its windows, and 50 events in the long one."""
    objective = Objective("heard-silence", n.SPAN_RESPONSE, 0.95, within=1.5, burns=(burn,))
    firing = f'count(ALERTS{{alertname="ErrorBudgetBurn", alertstate="firing", severity="{burn.severity}"}})'
    end = sum(minutes for minutes, _, _ in given) - 1
    judge([case(history(*given), firing, 1 if told else None, f"{end}m")], one(objective), ["slo.yml"])


@pytest.mark.covers("F-AL20")
def test_a_slow_leak_is_told(judge: Callable[..., None]) -> None:
    """Three turns an hour, a fifth of them bad, are a ticket after a day: no short window has events enough."""
    slow = Burn("warning", 1, "1d", "6h", "1h")
    given: Series = {}
    for duration_s, every in ((0.5, 4), (3, 1)):
        given |= spans(
            n.SPAN_RESPONSE, duration_s, every * 3 / 5 / 60, 28 * 60, **CLIENT, gen_ai_request_model=str(every)
        )
    objective = Objective("heard-silence", n.SPAN_RESPONSE, 0.95, within=1.5, burns=(slow,))
    told = case(given, 'count(ALERTS{alertname="ErrorBudgetBurn", alertstate="firing"})', 1, "27h")
    judge([told], one(objective), ["slo.yml"])


@pytest.mark.covers("C-S06")
def test_remaining_budget(judge: Callable[..., None]) -> None:
    """With 5 % allowed and 2 % bad, three fifths of the budget are left."""
    given = spans(n.SPAN_RESPONSE, 0.5, 98, **CLIENT) | spans(n.SPAN_RESPONSE, 3, 2, **CLIENT, voice_language="de")
    left = f'round({slo.REMAINING}{{slo="heard-silence"}}, 0.01)'
    judge([case(given, left, 0.6, slo="heard-silence", **SERVICE, **CLIENT)], one(SILENCE), ["slo.yml"])


# The command

GOOD: dict[str, Any] = {"slos": {"silence": {"of": "voice.response", "within": 0.6, "objective": 0.95}}}


def altered(**changes: Any) -> dict[str, Any]:
    """The good file with another objective."""
    return {"slos": {"silence": GOOD["slos"]["silence"] | changes}}


BURN = {"severity": "critical", "factor": 2, "long": "1h", "short": "5m", "for": "2m"}
NEVER = "so that it could never fire"


def slo_of(**data: Any) -> dict[str, Any]:
    """A file with this objective alone."""
    return {"slos": {"a": data}}


PAUSE = {"of": "barge_in", "within": 0.05, "objective": 0.95}
EVERY_OUTCOME = ["interrupted", "error", "timeout", "completed", "no_reply"]
MISTAKES: dict[str, tuple[Any, str]] = {
    "no boundary": (altered(within=0.7), "0.7 is no bucket boundary of voice.response"),
    "nearest boundaries": (altered(within=0.7), "the nearest are 0.6 and 0.8"),
    "beyond the boundaries": (altered(within=60), "the nearest are 30"),
    "factor": (altered(objective=0.9), f"1.44; no more than all events can be bad, {NEVER} (a factor below 10 can)"),
    "certainty": (altered(objective=1), "a share above 0 and below 1"),
    "percent": (altered(objective=95), "a share above 0 and below 1"),
    "span": (altered(of="voice.respons"), "nothing is called 'voice.respons'; did you mean 'voice.response'?"),
    "gauge": (altered(of="voice.task.peak"), "nothing is called 'voice.task.peak'"),
    "neither": (slo_of(of="voice.response", objective=0.9), "either `within` or `outcomes`"),
    "both": (altered(of="voice.turn", outcomes=["completed"]), "either `within` or `outcomes`"),
    "outcome": (slo_of(outcomes=["complete"], objective=0.99), "did you mean 'completed'?"),
    "all outcomes": (slo_of(outcomes=EVERY_OUTCOME, objective=0.99), NEVER),
    "outcomes of a stage": (slo_of(of="tts", outcomes=["completed"], objective=0.99), "not of tts"),
    "no label": (altered(where={"voice.barge_in.phase": "total"}), "no label of voice.response"),
    "no value": (slo_of(**PAUSE, where={"voice.barge_in.phase": "worker_pase"}), "did you mean 'worker_pause'?"),
    "windows": (altered(burns=[BURN | {"short": "1h", "long": "5m"}]), "the first must be the shorter one"),
    "short window": (altered(burns=[BURN | {"short": "1m"}]), "none shorter than 5m"),
    "long window": (altered(period="7d", burns=[BURN | {"long": "30d"}]), "or longer than 7d"),
    "duration": (altered(burns=[BURN | {"long": "an hour"}]), "'an hour' is no duration"),
    "no burn": (altered(burns=[BURN | {"factor": 0}]), "above 0"),
    "severity": (altered(burns=[BURN | {"severity": "page"}]), "nothing is called 'page'"),
    "name": ({"slos": {"Heard Silence": GOOD["slos"]["silence"]}}, "lower case"),
    "key": (altered(treshold=0.6), "nothing is called 'treshold'"),
    "section": ({"slo": {}}, "did you mean 'slos'?"),
    "text": (altered(within="600ms"), "must be a number, not '600ms'"),
    "alert": ({"alerts": {"HighLatency": 1}}, "nothing is called 'HighLatency'"),
    "limit": ({"alerts": {"HighEndToEndLatency": 1.4}}, "1.4 is no bucket boundary of voice.response"),
    "unreachable": (
        {"alerts": {"HighEndToEndLatency": 30}},
        f"no quantile of voice.response is ever above 30, {NEVER}",
    ),
    "unreachable share": ({"alerts": {"UnansweredTurns": 2}}, "a share is never above 1"),
    "always": ({"alerts": {"TtsErrors": 0}}, "must be above 0"),
    "price": ({"prices": {"voices": {"sam": -1}}}, "must not be below 0"),
    "guard": ({"minimum_events": {"alerts": 0}}, "a whole number above 0"),
    "list": ([], "the file must be a table"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_refused(mistake: str) -> None:
    """What cannot be measured, or could never fire, is refused with the reason."""
    data, reason = MISTAKES[mistake]
    with pytest.raises(ObjectivesError) as refusal:
        parse(data, alerts.LIMITS)
    assert reason in str(refusal.value)


def test_usual_limits_are_allowed() -> None:
    """Every limit that is built in passes its own check, and so a file that repeats it."""
    usual = {name: limit.value for name, limit in alerts.LIMITS.items()}
    assert parse({"alerts": usual}, alerts.LIMITS).limits == usual


@pytest.mark.covers("A-A01", "A-S01")
def test_limits_are_the_users(promtool: Callable[..., str], tmp_path: Path) -> None:
    """A limit of the file stands in its alert, and in what the alert says."""
    (tmp_path / "slo.toml").write_text("[alerts]\nHighEndToEndLatency = 0.8\n")
    done = CliRunner().invoke(main, ["slo", str(tmp_path / "slo.toml"), "--output", str(tmp_path / "rules")])
    assert done.exit_code == 0, done.output
    promtool("check", "rules", *sorted((tmp_path / "rules").glob("*.yml")))
    written = yaml.safe_load((tmp_path / "rules/alerts.yml").read_text())
    alert = next(rule for rule in written["groups"][0]["rules"] if rule["alert"] == "HighEndToEndLatency")
    assert "> 0.8)" in alert["expr"]
    assert alert["annotations"]["summary"] == "p95 of the heard silence exceeds 0.8s"


def test_the_same_in_toml(tmp_path: Path) -> None:
    """A file in TOML makes the same rules as one in YAML."""
    (tmp_path / "slo.yaml").write_text(json.dumps(GOOD))
    (tmp_path / "slo.toml").write_text('[slos.silence]\nof = "voice.response"\nwithin = 0.6\nobjective = 0.95\n')
    assert tomllib.loads((tmp_path / "slo.toml").read_text()) == GOOD
    written = []
    for name in ("slo.yaml", "slo.toml"):
        done = CliRunner().invoke(main, ["slo", str(tmp_path / name), "--output", str(tmp_path / "out")])
        assert done.exit_code == 0, done.output
        written.append((tmp_path / "out/slo.yml").read_text())
    assert written[0] == written[1]


@pytest.mark.parametrize("name", ["slo.yaml", "slo.toml"])
def test_a_file_that_is_none_is_refused(name: str, tmp_path: Path) -> None:
    """A syntax error is one line that names the file, and nothing is written."""
    (tmp_path / name).write_text("slos: {silence: [")
    done = CliRunner().invoke(main, ["slo", str(tmp_path / name), "--output", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert done.output.startswith(f"Error: {tmp_path / name}: ")
    assert len(done.output.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_checking_writes_nothing() -> None:
    """Without a folder the file is only checked."""
    done = CliRunner().invoke(main, ["slo", str(generate.CHECKOUT / generate.OBJECTIVES)])
    assert done.exit_code == 0
    assert done.output.endswith("5 objectives, 25 limits, no mistake found\n")


@pytest.mark.covers("E-X05")
def test_cost(judge: Callable[..., None]) -> None:
    """The cost per second is tokens and characters times the prices of the file; what has no price costs nothing."""
    prices = {"currency": "EUR", "models": {"small": {"input": 1, "output": 4}}, "voices": {"anna": 20}}
    given = parse({"prices": prices}, alerts.LIMITS)
    tokens = {"gen_ai_request_model": "small", "instance": "a"}
    events = (
        series("gen_ai_client_token_usage_sum", "0+6000x60", gen_ai_token_type="input", **tokens)
        | series("gen_ai_client_token_usage_sum", "0+600x60", gen_ai_token_type="output", **tokens)
        | series("gen_ai_client_token_usage_sum", "0+600x60", gen_ai_token_type="output", gen_ai_request_model="other")
        | spans(n.SPAN_TTS, 2, 60, voice_tts_voice_name="anna", voice_text_character_count_range="51-150")
        | spans(n.SPAN_TTS, 2, 60, voice_tts_voice_name="other", voice_text_character_count_range="51-150")
    )
    # 100 tokens a second at 1 a million and 10 at 4; one text of about 100.5 characters a second at 20 a million.
    cost = (
        "round(1e6 * sum by (currency) (voice:token_cost:rate), 0.01)",
        "round(1e6 * sum by (currency) (voice:character_cost:rate), 0.01)",
    )
    judge([case(events, query, value, currency="EUR") for query, value in zip(cost, (140, 2010), strict=True)], given)
