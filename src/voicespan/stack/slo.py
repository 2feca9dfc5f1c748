"""Error budgets: how fast they are spent, who is told, and `voicespan slo`, which writes the rules for them.

For every objective two series are recorded, the bad and all counted events per second. Every longer window is the sum
of these, which is as exact as the original buckets and a thousandth of the work.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from voicespan import names as n
from voicespan.stack import alerts, rules
from voicespan.stack import promql as q
from voicespan.stack.objectives import SHORTEST_S, ObjectivesError, load, seconds
from voicespan.stack.rules import Alert, Group, Record

if TYPE_CHECKING:
    from collections.abc import Iterable

    from voicespan.stack.objectives import Burn, Objective, Objectives

GOOD = "voice:slo_good:rate5m"
ANSWERED = "voice:slo_answered:rate5m"
WAITED = "voice:slo_waited_in_vain:rate5m"
PLACES = "voice:slo_places:share1h"
UNANSWERED = "voice:slo_unanswered:rate5m"
BAD = "voice:slo_bad:rate5m"
EVENTS = "voice:slo_events:rate5m"
OBJECTIVE = "voice:slo_objective:ratio"
REMAINING = "voice:slo_budget_remaining:ratio"

SHOWN = ("5m", "1h")
"""Windows that panels show, whichever alerts an objective has."""

_SLOW_WINDOW_S = 86_400
_SLOW_INTERVAL_S = 300
"""A window of days needs no new value every 30 seconds."""


def errors(window: str) -> str:
    """Return the series with the share of bad events in a window."""
    return f"voice:slo_errors:ratio_rate{window}"


def counted(window: str) -> str:
    """Return the series with the number of events in a window."""
    return f"voice:slo_events:increase{window}"


def labels(objective: Objective) -> tuple[str, ...]:
    """Return what an objective is split by: the service, and where it was measured if that is known."""
    metric = next((metric for metric in n.METRICS if metric.name == objective.of), None)
    placed = n.VOICE_MEASUREMENT_POINT in metric.attributes if metric else q.carries(
        objective.of, n.VOICE_MEASUREMENT_POINT
    )  # fmt: skip
    return (*q.SERVICE, q.POINT) if placed else q.SERVICE


def groups(objectives: Objectives) -> tuple[Group, ...]:
    """Return the rules of every objective."""
    return tuple(group for objective in objectives.slos for group in _groups(objective, objectives.fewest_burn))


def _groups(objective: Objective, fewest: int) -> tuple[Group, ...]:
    named = {"slo": objective.name}
    windows = {*SHOWN, *(window for burn in objective.burns for window in (burn.long, burn.short))}
    long = {burn.long for burn in objective.burns}
    ratios = {window: Record(errors(window), _share(objective, window), named) for window in windows}
    # Each value of the record stands for the seconds until the next one.
    counts = {
        window: Record(counted(window), f"{_over(EVENTS, objective, window)} * {rules.INTERVAL_S}", named)
        for window in long
    }
    slow = [window for window in windows if seconds(window) >= _SLOW_WINDOW_S]
    fast = windows - set(slow)
    told = [_alert(objective, burn, fewest) for burn in objective.burns]
    remaining = f"1 - {_share(objective, objective.period)} / {objective.budget:.6g}"

    def chosen(wanted: Iterable[str]) -> list[Record]:
        ordered = sorted(wanted, key=seconds)
        return [found[window] for window in ordered for found in (ratios, counts) if window in found]

    return (
        Group(
            f"voicespan-slo-{objective.name}",
            (*_events(objective), Record(OBJECTIVE, f"vector({objective.share:g})", named), *chosen(fast), *told),
        ),
        Group(
            f"voicespan-slo-{objective.name}-days",
            (*chosen(slow), Record(REMAINING, remaining, named)),
            _SLOW_INTERVAL_S,
        ),
    )


def _select(record: str, objective: Objective) -> str:
    return q.select(record, [f'slo="{objective.name}"'])


def _over(record: str, objective: Objective, window: str) -> str:
    return f"sum_over_time({_select(record, objective)}[{window}])"


def _share(objective: Objective, window: str) -> str:
    """Return the share of bad events, which is not there where nothing happened."""
    if seconds(window) == SHORTEST_S:
        return f"{_select(BAD, objective)} / ({_select(EVENTS, objective)} > 0)"
    return f"{_over(BAD, objective, window)} / ({_over(EVENTS, objective, window)} > 0)"


def _events(objective: Objective) -> tuple[Record, ...]:
    """Return the records of the bad and of all events per second, and what these need."""
    by = labels(objective)
    where = [q.is_(attribute, value) for attribute, value in objective.where]

    def per_second(metric: str, *matchers: str, by: tuple[str, ...] = by) -> str:
        return q.total(q.rate(q.select(metric, [*matchers, *where]), "5m"), by)

    def record(name: str, expression: str) -> Record:
        return Record(name, expression, {"slo": objective.name})

    good, events = _select(GOOD, objective), _select(EVENTS, objective)
    bad = record(BAD, f"{events} - ({good} or 0 * {events})")
    if objective.outcomes:
        asked = (
            q.span(n.SPAN_TURN),
            q.is_(n.VOICE_TURN_INITIATOR, "user"),
            q.not_(n.VOICE_TURN_NO_REPLY_REASON, *rules.UNCOUNTED_REASONS),
        )
        successful = q.is_(n.VOICE_TURN_OUTCOME, *objective.outcomes)
        return (
            record(EVENTS, per_second(q.CALLS, *asked)),
            record(GOOD, per_second(q.CALLS, *asked, successful)),
            bad,
        )
    assert objective.within is not None
    in_time = q.within(objective.within)
    histogram = any(metric.name == objective.of for metric in n.METRICS)
    metric = q.series(objective.of) if histogram else q.DURATION
    matchers = [] if histogram else [q.span(objective.of)]
    measured = per_second(f"{metric}_count", *matchers)
    measured_good = record(GOOD, per_second(f"{metric}_bucket", *matchers, in_time))
    if objective.of != n.SPAN_RESPONSE:
        return record(EVENTS, measured), measured_good, bad

    # Who was never answered waited in vain: bad, unless nobody waited (no_speech, suppressed) or it was over before the
    # threshold, where it counts neither way. No ear observed it: it is shared out over the places at which the
    # service's answers of the last hour were observed, or is the server's where there was none.
    in_vain = q.span(n.SPAN_UNANSWERED), q.not_(n.VOICE_TURN_NO_REPLY_REASON, *rules.UNCOUNTED_REASONS)
    waited = (
        f"{per_second(f'{metric}_count', *in_vain, by=q.SERVICE)}\n"
        f"- {per_second(f'{metric}_bucket', *in_vain, in_time, by=q.SERVICE)}"
    )
    service = f"on (slo, {', '.join(q.SERVICE)})"
    answers, all_answers = (
        q.total(q.increase(q.select(f"{metric}_count", [*matchers, *where]), "1h"), each) for each in (by, q.SERVICE)
    )
    answered, places, in_vain_there = (_select(name, objective) for name in (ANSWERED, PLACES, UNANSWERED))
    return (
        record(ANSWERED, measured),
        measured_good,
        record(PLACES, f"{answers}\n/ on ({', '.join(q.SERVICE)}) group_left () {all_answers} >= 0"),
        record(WAITED, waited),
        record(
            UNANSWERED,
            f"{places} * {service} group_left () {_select(WAITED, objective)}\n"
            f'or label_replace({_select(WAITED, objective)} unless {service} {places}, "{q.POINT}", "server", "", "")',
        ),
        record(EVENTS, f"{answered} + {in_vain_there}\nor {answered}\nor {in_vain_there}"),
        bad,
    )


def _alert(objective: Objective, burn: Burn, fewest: int) -> Alert:
    limit = f"{burn.factor * objective.budget:.6g}"
    spent = (f"{_select(errors(window), objective)} > {limit}" for window in (burn.long, burn.short))
    enough = f"{_select(counted(burn.long), objective)} >= {fewest}"
    return Alert(
        "ErrorBudgetBurn",
        "\nand ".join((*spent, enough)),
        burn.wait,
        burn.severity,
        f"The error budget of {objective.name} is spent {burn.factor:g} times too fast",
        f"In the last {burn.long} {{{{ $value | humanizePercentage }}}} were bad; {objective.share:.4%} good ones are "
        f"promised over {objective.period}",
        "error-budget-burn",
        {"slo": objective.name, "window": burn.long},
    )


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write the rule files to; without it they are only checked.",
)
def slo(file: Path, output: Path | None) -> None:
    """Check the objectives, limits and prices of FILE (YAML or TOML) and write the Prometheus rules for them.

    A limit that is no bucket boundary is refused, and so is an alert that could never fire.
    """
    from voicespan.stack.generate import rule_files

    try:
        objectives = load(file, alerts.LIMITS)
    except (ObjectivesError, OSError) as error:
        raise click.ClickException(f"{file}: {error}") from None
    files = rule_files(objectives)
    if output is None:
        click.echo(f"{file}: {len(objectives.slos)} objectives, {len(objectives.limits)} limits, no mistake found")
        return
    output.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (output / name).write_text(text, encoding="utf-8")
        click.echo(str(output / name))
    click.echo("Prometheus reads them when it is told to: voicespan stack reload, or SIGHUP", err=True)
