"""Label values are listed or few."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from voicespan import diagnostics, metrics, settings
from voicespan import names as n
from voicespan.metrics.labels import labels
from voicespan.settings import Settings

if TYPE_CHECKING:
    from .conftest import Meters


@pytest.mark.covers("F-R08", "E-Q08")
def test_the_values_after_the_first_few_become_other(meters: Meters) -> None:
    """A label that comes with requests has so many values as the setting allows, and never more series than that."""
    settings.reset(Settings(label_values=3))
    for number in range(40):
        metrics.intent(f"wish-{number}")
    metrics.intent("wish-1")
    assert meters.values(n.METRIC_VOICE_INTENTS) == {
        ("wish-0",): 1,
        ("wish-1",): 2,
        ("wish-2",): 1,
        ("other",): 37,
    }
    assert diagnostics.counters.get("label.over_limit") == 37


def test_a_list_of_values_counts_from_then_on(meters: Meters) -> None:
    """Whoever lists the voices there are has these and `other`."""
    metrics.intent("weather")
    metrics.allow(n.VOICE_INTENT_TYPE, ["weather", "calendar"])
    for kind in ("calendar", "weather", "nonsense"):
        metrics.intent(kind)
    assert meters.values(n.METRIC_VOICE_INTENTS) == {("weather",): 2, ("calendar",): 1, ("other",): 1}


def test_closed_attributes_have_their_values_only(meters: Meters) -> None:
    """What the names module closes takes no other value."""
    metrics.client_mark("playback_start", 0.5)
    metrics.client_mark("my own mark", 0.5)
    marks = {point.attributes[n.VOICE_CLIENT_MARK] for point in meters.points(n.METRIC_VOICE_CLIENT_MARK_DURATION)}
    assert marks == {"playback_start", "other"}


@pytest.mark.covers("F-R08", "C-Q03")
def test_identities_texts_and_secrets_are_no_labels() -> None:
    """A session, an address, a long text and whatever the redaction finds never become a value."""
    given = {
        n.SESSION_ID: "call-1",
        n.CLIENT_ADDRESS: "10.0.0.1",
        n.GEN_AI_CONVERSATION_ID: "call-1",
        n.GEN_AI_REQUEST_MODEL: "x" * 101,
        n.VOICE_TTS_VOICE_NAME: "anna@example.com",
        n.HTTP_ROUTE: None,
    }
    assert labels.of(given) == {n.GEN_AI_REQUEST_MODEL: "other", n.VOICE_TTS_VOICE_NAME: "other"}


def test_an_unknown_error_has_the_word_of_the_conventions(meters: Meters) -> None:
    """On `error.type` the rest is `_OTHER`."""
    settings.reset(Settings(label_values=1))
    metrics.client_error("websocket")
    metrics.client_error("another")
    assert meters.values(n.METRIC_VOICE_CLIENT_ERRORS) == {("websocket",): 1, ("_OTHER",): 1}


@pytest.mark.covers("F-IN38", "A-U08", "D-U01", "D-M17", "D-M18")
def test_own_metrics_take_two_lines(meters: Meters) -> None:
    """A counter and a histogram of the service's own, with labels that are bounded as all are."""
    settings.reset(Settings(label_values=2))
    orders = metrics.counter("app.orders", "{order}", "Orders taken.")
    wait = metrics.histogram("app.wait", "s", buckets=(1, 2))
    for kind in ("pizza", "pasta", "soup", "soup"):
        orders.add(kind=kind)
    wait.record(1.5, {"desk": "front"})
    found = meters.collect()
    assert {point.attributes["kind"]: point.value for point in found["app.orders"].data.data_points} == {
        "pizza": 1,
        "pasta": 1,
        "other": 2,
    }
    assert found["app.orders"].unit == "{order}"
    (point,) = found["app.wait"].data.data_points
    assert (point.bucket_counts, point.explicit_bounds) == ((0, 1, 0), (1, 2))


@pytest.mark.parametrize("name", ["App.Orders", "orders_total ", "", n.METRIC_VOICE_INTENTS])
def test_a_name_that_breaks_the_rules_is_an_error_when_it_is_made(name: str) -> None:
    """Own metrics follow the rule of names, and do not take voicespan's."""
    with pytest.raises(ValueError, match="metric"):
        metrics.counter(name)
