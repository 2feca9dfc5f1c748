"""What is promised and when somebody is told: the user's file, checked before any rule is made of it."""

from __future__ import annotations

import math
import re
import tomllib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from voicespan import names as n
from voicespan.nearest import nearest
from voicespan.stack import promql

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_ATTRIBUTES = {attribute.name: attribute for attribute in n.ATTRIBUTES}

SHORTEST_S = 300
"""The recorded rates are taken over five minutes: no window of an alert can be shorter."""


class ObjectivesError(ValueError):
    """The file promises something that cannot be measured, or that no alert could ever tell."""


def seconds(duration: str) -> int:
    """Return a duration such as `30m` in seconds."""
    found = re.fullmatch(r"(\d+)([smhd])", duration)
    if not found:
        raise ObjectivesError(f"{duration!r} is no duration: write 30s, 5m, 6h or 3d")
    return int(found[1]) * _SECONDS[found[2]]


@dataclass(frozen=True, slots=True)
class Burn:
    """One alert on the error budget: when it is spent `factor` times too fast over both windows."""

    severity: str
    factor: float
    long: str
    short: str
    wait: str


BURNS = (
    Burn("critical", 14.4, "1h", "5m", "2m"),
    Burn("warning", 6, "6h", "30m", "15m"),
    Burn("warning", 1, "3d", "6h", "1h"),
)
"""The usual windows: a fiftieth of a month's budget in an hour, a twentieth in six hours, and a slow leak."""


@dataclass(frozen=True, slots=True)
class Objective:
    """A promise about a share of events: `share` of them are good."""

    name: str
    of: str
    """The span or the histogram that it is about."""
    share: float
    within: float | None = None
    """Good is what took no longer, in the unit of the histogram."""
    outcomes: tuple[str, ...] = ()
    """Good is a turn with one of these outcomes, where `within` is None."""
    where: tuple[tuple[str, str], ...] = ()
    period: str = "30d"
    burns: tuple[Burn, ...] = BURNS

    @property
    def budget(self) -> float:
        """The share of events that may be bad."""
        return 1 - self.share


@dataclass(frozen=True, slots=True)
class Prices:
    """What a model and a voice cost."""

    currency: str = ""
    tokens: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """For each model, the price of a million tokens: of the prompt, and of the answer."""
    characters: Mapping[str, float] = field(default_factory=dict)
    """For each voice, the price of a million characters."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A number that an alert compares with; the user's file may name another."""

    value: float
    unit: str
    of: str | None = None
    """The histogram whose boundary it must be, because the alert asks for a quantile of it."""

    def check(self, name: str, value: float) -> None:
        """Refuse a value at which the alert would guess between two boundaries, or could never fire."""
        if not math.isfinite(value) or value <= 0:
            raise ObjectivesError(f"alert {name}: {value:g} is no limit; it must be above 0")
        if self.unit == "ratio" and value >= 1:
            raise ObjectivesError(f"alert {name}: a share is never above 1, so that {value:g} could never fire")
        if self.of is None:
            return
        _on_boundary(f"alert {name}", self.of, value)
        last = promql.boundaries(self.of)[-1]
        if value >= last:
            # A quantile beyond the last boundary is given as that boundary.
            raise ObjectivesError(
                f"alert {name}: no quantile of {self.of} is ever above {last:g}, so that it could never fire"
            )


@dataclass(frozen=True, slots=True)
class Objectives:
    """The whole file."""

    slos: tuple[Objective, ...] = ()
    limits: Mapping[str, float] = field(default_factory=dict)
    """For each alert, the number that it compares with, where it is not the usual one."""
    prices: Prices = field(default_factory=Prices)
    runbooks: str = "docs/runbooks"
    """Where the pages are that the alerts link to."""
    fewest: int = 10
    """An alert on a share or a quantile is silent below this number of events in its window."""
    fewest_burn: int = 50
    """The same for the alerts on an error budget, in their long window."""


def load(path: Path, limits: Mapping[str, Limit]) -> Objectives:
    """Read and check the file; `limits` are the alerts that have a number, and what their number must be.

    Raises:
        ObjectivesError: something in it is misspelt, cannot be measured, or could never fire.
        OSError: it cannot be read.

    """
    return parse(_read(path), limits)


def _read(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".toml":
        try:
            return tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise ObjectivesError(str(error)) from None
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ObjectivesError(" ".join(str(error).split())) from None


def parse(data: Any, limits: Mapping[str, Limit]) -> Objectives:
    """Return what a decoded file says, checked as `load` does."""
    top = _table("the file", data, ("slos", "alerts", "prices", "runbooks", "minimum_events"))
    fewest = _table("minimum_events", top.get("minimum_events", {}), ("alerts", "budgets"))
    return Objectives(
        slos=tuple(_objective(name, given) for name, given in _table("slos", top.get("slos", {})).items()),
        limits=_limits(_table("alerts", top.get("alerts", {}), limits), limits),
        prices=_prices(_table("prices", top.get("prices", {}), ("currency", "models", "voices"))),
        runbooks=str(top.get("runbooks", Objectives().runbooks)).rstrip("/"),
        fewest=_count("minimum_events.alerts", fewest.get("alerts", Objectives().fewest)),
        fewest_burn=_count("minimum_events.budgets", fewest.get("budgets", Objectives().fewest_burn)),
    )


def _objective(name: str, data: Any) -> Objective:
    place = f"slo {name}"
    if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
        raise ObjectivesError(f"{place}: a name is lower case, with hyphens")
    given = _table(place, data, ("of", "objective", "within", "outcomes", "where", "period", "burns"))
    of = str(given.get("of", n.SPAN_TURN if "outcomes" in given else ""))
    _known(place, of, [*(span.name.split(" {")[0] for span in n.SPANS), *_histograms()])
    share = _number(f"{place}: objective", given.get("objective"))
    if not 0 < share < 1:
        raise ObjectivesError(f"{place}: the objective is a share above 0 and below 1, such as 0.95; it is {share:g}")
    objective = Objective(
        name=name,
        of=of,
        share=share,
        within=_within(place, of, given["within"]) if "within" in given else None,
        outcomes=_outcomes(place, of, given.get("outcomes", ())),
        where=_where(place, of, _table(f"{place}: where", given.get("where", {}))),
        period=str(given.get("period", "30d")),
        burns=tuple(_burn(place, burn) for burn in given["burns"]) if "burns" in given else BURNS,
    )
    if (objective.within is None) == (not objective.outcomes):
        raise ObjectivesError(f"{place}: say what is good, by either `within` or `outcomes`")
    for burn in objective.burns:
        _check_burn(place, objective, burn)
    return objective


def _within(place: str, of: str, given: Any) -> float:
    value = _number(f"{place}: within", given)
    _on_boundary(place, of, value)
    return value


def _on_boundary(place: str, of: str, value: float) -> None:
    boundaries = promql.boundaries(of)
    if value not in boundaries:
        below = max((bound for bound in boundaries if bound < value), default=None)
        above = min((bound for bound in boundaries if bound > value), default=None)
        near = " and ".join(f"{bound:g}" for bound in (below, above) if bound is not None)
        raise ObjectivesError(
            f"{place}: {value:g} is no bucket boundary of {of}, so that it cannot be counted; the nearest are {near}"
        )


def _outcomes(place: str, of: str, given: Iterable[Any]) -> tuple[str, ...]:
    outcomes = tuple(str(outcome) for outcome in given)
    known = _ATTRIBUTES[n.VOICE_TURN_OUTCOME].values
    for outcome in outcomes:
        _known(place, outcome, known)
    if outcomes and of != n.SPAN_TURN:
        raise ObjectivesError(f"{place}: outcomes are of {n.SPAN_TURN}, not of {of}")
    if set(outcomes) == set(known):
        raise ObjectivesError(f"{place}: every outcome is good, so that it could never fire")
    return outcomes


def _where(place: str, of: str, given: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    for attribute, value in given.items():
        carried = promql.carries(of, attribute) or (of in _histograms() and attribute in _histograms()[of])
        if not carried:
            raise ObjectivesError(f"{place}: {attribute} is no label of {of}, so that nothing would ever match")
        listed = _ATTRIBUTES[attribute]
        if listed.closed:
            _known(place, str(value), listed.values)
    return tuple((attribute, str(value)) for attribute, value in given.items())


def _burn(place: str, data: Any) -> Burn:
    given = _table(f"{place}: burns", data, ("severity", "factor", "long", "short", "for"))
    severity = str(given.get("severity", "warning"))
    _known(place, severity, ("critical", "warning"))
    factor = _number(f"{place}: factor", given.get("factor"))
    windows = [str(given.get(key, "")) for key in ("long", "short", "for")]
    return Burn(severity, factor, *windows)


def _check_burn(place: str, objective: Objective, burn: Burn) -> None:
    rate = burn.factor * objective.budget
    if burn.factor <= 0:
        raise ObjectivesError(f"{place}: the factor of a burn is above 0")
    if rate >= 1:
        most = 1 / objective.budget
        raise ObjectivesError(
            f"{place}: {burn.factor:g} times a budget of {objective.budget:g} is {rate:.3g}; no more than all events "
            f"can be bad, so that it could never fire (a factor below {most:.3g} can)"
        )
    short, long, period = seconds(burn.short), seconds(burn.long), seconds(objective.period)
    seconds(burn.wait)
    if not SHORTEST_S <= short < long <= period:
        raise ObjectivesError(
            f"{place}: of the windows {burn.short} and {burn.long} the first must be the shorter one, none shorter "
            f"than 5m or longer than {objective.period}"
        )


def _limits(given: Mapping[str, Any], known: Mapping[str, Limit]) -> dict[str, float]:
    values = {name: _number(f"alert {name}", value) for name, value in given.items()}
    for name, value in values.items():
        known[name].check(name, value)
    return values


def _prices(given: Mapping[str, Any]) -> Prices:
    models = {
        str(model): _table(f"prices of {model}", price, ("input", "output"))
        for model, price in _table("prices.models", given.get("models", {})).items()
    }
    return Prices(
        currency=str(given.get("currency", "")),
        tokens={
            model: (
                _price(f"prices of {model}: input", price.get("input", 0)),
                _price(f"prices of {model}: output", price.get("output", 0)),
            )
            for model, price in models.items()
        },
        characters={
            str(voice): _price(f"price of {voice}", price)
            for voice, price in _table("prices.voices", given.get("voices", {})).items()
        },
    )


def _histograms() -> dict[str, tuple[str, ...]]:
    return {metric.name: metric.attributes for metric in n.METRICS if metric.instrument == "histogram"}


def _table(place: str, data: Any, known: Iterable[str] | None = None) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise ObjectivesError(f"{place} must be a table")
    if known is not None:
        for key in data:
            _known(place, str(key), known)
    return {str(key): value for key, value in data.items()}


def _known(place: str, name: str, known: Iterable[str]) -> None:
    known = list(known)
    if name not in known:
        like = nearest(name, known)
        meant = f"; did you mean {like!r}?" if like else f"; there are {', '.join(known)}"
        raise ObjectivesError(f"{place}: nothing is called {name!r}{meant}")


def _number(place: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ObjectivesError(f"{place} must be a number, not {value!r}")
    return float(value)


def _price(place: str, value: Any) -> float:
    price = _number(place, value)
    if price < 0:
        raise ObjectivesError(f"{place} must not be below 0")
    return price


def _count(place: str, value: Any) -> int:
    count = _number(place, value)
    if count < 1 or count != int(count):
        raise ObjectivesError(f"{place} must be a whole number above 0")
    return int(count)
