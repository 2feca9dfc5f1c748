"""`voicespan compare`: what changed between two runs or two times, stage by stage, and whether it may be chance."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from rich.table import Table
from rich.text import Text

from voicespan.local.compare import compared
from voicespan.local.figures import OBJECTIVE_NS
from voicespan.local.query import MAX_LIMIT, TurnQuery
from voicespan.local.stages import BAD
from voicespan.local.terminal import console, errors, filter_options, json_option, origin_options
from voicespan.local.times import stretch_ns
from voicespan.local.turn import NS_PER_S
from voicespan.local.words import NS_PER_MS, milliseconds, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from rich.console import Console

    from voicespan.local.origin import Origin

_GOOD = "#2b8a3e"
_PERCENTILES = ("p50", "p95", "p99")
_WORSE_WHEN_LESS = ("within_objective",)
_WORDS = {"response": "heard silence", "within_objective": "within objective"}


class _Side(NamedTuple):
    """What is compared: its words, and what selects it."""

    words: str
    fields: dict[str, Any]


@click.command()
@click.argument("before", required=False)
@click.argument("now", required=False)
@origin_options
@filter_options(times=False)
@click.option("--objective", type=float, default=OBJECTIVE_NS / NS_PER_MS, show_default=True, metavar="MS",
              help="What the heard silence should stay within.")  # fmt: skip
@click.option("--limit", type=click.IntRange(1, MAX_LIMIT), default=2000, show_default=True,
              help="From elsewhere: at most so many turns of each side, the newest.")  # fmt: skip
@click.option("--list", "listed", is_flag=True, help="List the runs that can be compared.")
@json_option
def compare_turns(
    *,
    before: str | None,
    now: str | None,
    origin: Origin,
    filters: dict[str, Any],
    objective: float,
    limit: int,
    listed: bool,
    as_json: bool,
) -> None:
    """Say what changed from BEFORE to NOW, with 95 % confidence intervals.

    Each is a run (its name, or its number in --list) or a stretch of time, SINCE..UNTIL: `compare 2h..1h 1h..`.
    Without both, the newest run is compared with the one before it of the same service.
    """
    if listed:
        with errors():
            _list(origin.runs(), as_json=as_json)
        return
    if (before is None) != (now is None):
        raise click.UsageError("name both, BEFORE and NOW, or neither")
    with errors(), ExitStack() as opened:
        sides = _sides(origin, before, now)
        queries = [TurnQuery(**filters, **side.fields, limit=limit) for side in sides]
        found = [opened.enter_context(origin.turns(query)) for query in queries]
        result = compared(found[1], found[0], round(objective * NS_PER_MS))
    if as_json:
        click.echo(json.dumps({**result, "sides": {"before": sides[0].words, "now": sides[1].words}}, indent=2))
    else:
        _draw(result, sides, objective, console())


def _sides(origin: Origin, before: str | None, now: str | None) -> list[_Side]:
    if before is None or now is None:
        return _newest(origin.runs())
    known: list[list[dict[str, Any]]] = []

    def side(text: str) -> _Side:
        if ".." in text:
            try:
                since_ns, until_ns = stretch_ns(text)
            except ValueError as error:
                raise click.UsageError(str(error)) from None
            return _Side(text, {"since_ns": since_ns, "until_ns": until_ns})
        if not known:
            known.append(origin.runs())
        return _run(known[0], text)

    return [side(before), side(now)]


def _newest(runs: list[dict[str, Any]]) -> list[_Side]:
    for position, run in enumerate(runs):
        other = next((each for each in runs[position + 1 :] if each["service"] == run["service"]), None)
        if other is not None:
            return [_of_run(other), _of_run(run)]
    raise click.ClickException(
        "there are no two runs of one service: start it again after a change, or name two times, as in 2h..1h 1h.."
    )


def _run(runs: list[dict[str, Any]], text: str) -> _Side:
    named = [run for run in runs if run["name"] == text] or [run for run in runs if str(run["id"]) == text]
    if not named:
        raise click.ClickException(f"no run {text!r} is known: voicespan compare --list shows them")
    return _of_run(named[0])


def _of_run(run: dict[str, Any]) -> _Side:
    return _Side(_name(run), {"run": run["id"]})


def _name(run: Mapping[str, Any]) -> str:
    return printable(run["name"] or f"run {run['id']}")


def _list(runs: list[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(runs, indent=2))
        return
    if not runs:
        click.echo("There is no run yet.")
        return
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for title in ("run", "name", "service", "version", "turns", "p50", "p95"):
        table.add_column(title, no_wrap=True, justify="right" if title in ("turns", "p50", "p95") else "left")
    for run in runs:
        texts = (str(run["id"]), run["name"], run["service"], run["version"], f"{run['turns']:,}")
        table.add_row(*(printable(text or "") for text in texts), _length(run["p50_s"]), _length(run["p95_s"]))
    console().print(table)


def _draw(result: dict[str, Any], sides: list[_Side], objective: float, shown: Console) -> None:
    sizes = [result[key] for key in ("before", "now")]
    for title, side, size in zip(("before", "now"), sides, sizes, strict=True):
        turns = f"{size['turns']:,} turn{'' if size['turns'] == 1 else 's'}, {size['answered']:,} answered"
        shown.print(Text.assemble((f"{title:<8}", "dim"), side.words, (f"  {turns}", "dim")), soft_wrap=True)
    if not all(size["turns"] for size in sizes):
        empty = " and ".join(title for title, size in zip(("before", "now"), sizes, strict=True) if not size["turns"])
        raise click.ClickException(f"no turn matches on the side of {empty}")
    shown.print()
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for title in ("", "", "before", "now", "change", "95 % interval", ""):
        table.add_column(title, no_wrap=True, justify="right" if title else "left")
    for row in _rows(result, objective):
        table.add_row(*row)
    shown.print(table)


def _rows(result: dict[str, Any], objective: float) -> Iterator[list[str | Text]]:
    least = result["least"]
    for stage, found in result["latencies"].items():
        for place, percentile in enumerate(_PERCENTILES):
            both = [found[side][f"{percentile}_s"] for side in ("before", "now")]
            yield [
                _WORDS.get(stage, stage) if place == 0 else "",
                Text(percentile, "dim"),
                *map(_length, both),
                *_change(found.get(percentile), "_s", least[percentile]),
            ]
    for place, (stage, found) in enumerate(result["shares"].items()):
        both = [found[f"{side}_s"] for side in ("before", "now")]
        label = "share of the silence" if place == 0 else ""
        yield [label, Text(f"{stage} (mean)", "dim"), *map(_length, both), *_change(found, "_s", least["mean"])]
    for place, (rate, found) in enumerate(result["rates"].items()):
        words = _WORDS.get(rate, rate) + (f" {objective:g} ms" if rate in _WORSE_WHEN_LESS else "")
        both = [found[side] for side in ("before", "now")]
        sign = -1 if rate in _WORSE_WHEN_LESS else 1
        yield [
            "share of the turns" if place == 0 else "",
            Text(words, "dim"),
            *map(_percent, both),
            *_change(found, "", least["rate"], sign),
        ]


def _change(
    found: Mapping[str, Any] | None, unit: str, least: int, worse: int = 1
) -> tuple[str | Text, str, str | Text]:
    """Return the change, its interval, and what to think of it; `worse` is the sign of what is worse."""
    change: float | None = None if found is None else found[f"change{unit}"]
    if found is None or change is None:
        return "", "", Text(f"needs {least} turns of each side", "dim")
    write = _signed_length if unit else _signed_percent
    interval = f"{write(found[f'low{unit}'])} to {write(found[f'high{unit}'])}"
    if not found["clear"]:
        return write(change), interval, Text("may be chance", "dim")
    is_worse = change * worse > 0
    style = f"bold {BAD if is_worse else _GOOD}"
    return Text(write(change), style), interval, Text("worse" if is_worse else "better", style)


def _length(seconds: float | None) -> str:
    return "" if seconds is None else milliseconds(round(seconds * NS_PER_S))


def _signed_length(seconds: float) -> str:
    if abs(seconds) == float("inf"):
        return "no limit"
    return f"{'-' if seconds < 0 else '+'}{milliseconds(round(abs(seconds) * NS_PER_S))}"


def _percent(rate: float | None) -> str:
    return "" if rate is None else f"{rate:.1%}".replace("%", " %")


def _signed_percent(rate: float) -> str:
    return f"{rate:+.1%}".replace("%", " %")
