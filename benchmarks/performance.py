"""docs/performance.md, made of the results of all scripts."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from bars import BARS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from bars import Found

NAMES = {"bare": "no telemetry", "plain": "**plain SDK**", "ours": "**voicespan**", "ours, traces": "voicespan, traces"}
FRAMEWORKS = {"pipecat": "Pipecat", "livekit": "LiveKit Agents"}
JUDGED = {"met": "met", "not met": "**not met**", "not sure": "not sure: noise", "not measured": "not measured"}


def page(results: dict[str, Found]) -> str:
    """Return the whole page."""
    parts = [_head(results), _promises(results)]
    for name, part in {"peers": _peers, "calls": _calls}.items():
        if name in results and "failed" not in results[name]:
            parts.append(part(results[name]))
    parts.append(_runs(results))
    return "\n\n".join("\n".join(lines) for lines in parts) + "\n"


def _head(results: dict[str, Found]) -> Iterator[str]:
    machines = sorted({found["machine"] for found in results.values() if isinstance(found.get("machine"), str)})
    yield "# Performance"
    yield ""
    yield from _prose(
        "What voicespan promises to cost, what it costs, and what others cost for the same. `make bench` "
        "measures all of it and writes this page; `make bench-check` fails when a ratio is worse than its "
        "bar. Ratios hold on any machine: both sides ran in turns in one run. Times are those of the "
        f"machine at hand: {'; '.join(machines) or 'none yet'}. How it is measured is in "
        "[benchmarks](../benchmarks/README.md)."
    )


def _promises(results: dict[str, Found]) -> Iterator[str]:
    yield from _section(
        "## What is promised",
        "A ratio is the median of the paired ones, with the interval in which the true one lies with 95 % "
        "confidence. The bar is met when all of the interval is on its good side, not met when all of it is "
        "on the other.",
    )
    rows = []
    for bar in BARS:
        finding = bar.look(results)
        rows.append((bar.what, bar.bar, finding.today or "-", JUDGED[finding.judgement]))
    yield from _table(("what", "bar", "measured", ""), rows)


def _peers(found: Found) -> Iterator[str]:
    peers = found["peers"]
    yield from _section(
        "## The same turn beside other libraries",
        f"Each library in a process of its own, with its own pins, held {found['turns']} turns of twelve "
        f"spans in turns with all others, {found['rounds']} times; its defaults, and what its documentation "
        "recommends for another back end than its own, which is on this machine. Microseconds of CPU for "
        "one turn, the least of all rounds; *of the plain SDK* is the median of the paired ratios with its "
        "interval. *To bytes* is all CPU of the process until the bodies of requests exist, *sent* until "
        "they are answered. voicespan redacts (of the others Logfire does), makes metrics of the turn (none "
        "of the others), and sends fewer turns a request, so that they are seen soon.",
    )
    yield "![CPU of one turn](pictures/performance/peers.svg)"
    yield ""
    rows = []
    for name, peer in _libraries(peers):
        if "recording" not in peer:
            rows.append((_name(name, peer), peer["what"], f"missing: {peer['missing']}", *["-"] * 5))
            continue
        costs = peer["recording"]
        records = f"{costs['spans_per_turn']:.0f} spans, {costs['attributes_per_turn']} attributes"
        caller, made, sent = costs["caller_us"], costs["bytes_us"], costs["sent_us"]
        rows.append(
            (
                _name(name, peer),
                f"{peer['what']}: {records}",
                f"{caller['min']:.0f}",
                _of(caller),
                f"{made['min']:.0f}",
                _of(made),
                f"{sent['min']:.0f}",
                f"{costs['bytes_per_turn']:,}",
            )
        )
    head = (
        "",
        "what it records",
        "caller µs",
        "of the plain SDK",
        "to bytes µs",
        "of the plain SDK",
        "sent µs",
        "bytes",
    )
    yield from _table(head, rows)
    yield ""
    yield from _life(peers)
    yield ""
    yield from _frameworks(peers)


def _life(peers: dict[str, Any]) -> Iterator[str]:
    yield from _section(
        "### Start, memory, exit",
        "Set up from code in a new process, nothing else imported: the least time until turns can be "
        "recorded, what the process holds then, and after the turns above. Exit with ten turns pending and "
        "a back end that refuses, or never answers: seconds from the last statement to the end, and lines "
        "on stderr in all.",
    )
    yield "![Start, memory and exit](pictures/performance/life.svg)"
    yield ""
    rows = []
    for name, peer in _libraries(peers):
        if "start" in peer:
            start, ends = peer["start"], [peer["exit"][kind] for kind in ("refuses", "never answers")]
            rows.append(
                (
                    _name(name, peer),
                    f"{start['cpu_ms']:.0f}",
                    f"{start['memory_mb']:.0f}",
                    f"{start['modules']:,}",
                    f"{peer['recording']['memory_mb']:.0f}",
                    *(f"{end['s']:.1f} s, {end['lines']}" for end in ends),
                )
            )
    yield from _table(("", "start, ms of CPU", "MB", "modules", "MB after turns", "refuses", "never answers"), rows)


def _frameworks(peers: dict[str, Any]) -> Iterator[str]:
    yield from _section(
        "### In Pipecat and LiveKit",
        "The frameworks' own tracing, and voicespan's integration in its place, on the same turn of ten "
        "calls at once: speech as audio, a recognizer, a model and a voice that take no time. *Added* is "
        "the CPU in microseconds beyond the same turn without tracing, with the interval of 95 %: a turn of "
        "a framework takes a hundred times as long, so the noise is large. They do not record the same: "
        "Pipecat's turn, stt, llm and tts with prompt and transcript; LiveKit's user and agent turn, the "
        "wait for its end, requests and playback with prompt and transcript; voicespan's the spans of [the "
        "turn model](turn-model.md), metrics, and no content.",
    )
    rows = []
    for key, name in FRAMEWORKS.items():
        for who, words in {"own": "its own tracing", "ours": "voicespan"}.items():
            peer = peers.get(f"{key}, {who}", {})
            if "recording" not in peer:
                rows.append((f"{name}: {words}", f"missing: {peer.get('missing', 'not measured')}", "-", "-", "-"))
                continue
            costs = peer["recording"]
            rows.append(
                (
                    f"{name} {peer['version']}: {words}",
                    f"{costs['spans_per_turn']:.0f} spans, {costs['attributes_per_turn']} attributes",
                    f"{costs['bytes_per_turn']:,}",
                    _added(costs["caller_us"]),
                    _added(costs["sent_us"]),
                )
            )
    yield from _table(("", "records", "bytes", "added on the event loop, µs", "added in all, µs"), rows)


def _calls(found: Found) -> Iterator[str]:
    yield from _section(
        "## From 1 to 1,000 calls",
        "`voicespan load`: a service with so many calls on one event loop, each with a turn every "
        f"{found['turn_every_s']:.0f} s and a frame every 20 ms of the reply, to a back end on the same "
        "machine; before that the same calls without telemetry. "
        "Of several runs the middle one by its delay; spans lost in all of them.",
    )
    yield "![CPU, memory and event-loop delay](pictures/performance/calls.svg)"
    yield ""
    rows = []
    for calls, point in found["curves"].items():
        runs = point["runs"]
        run = sorted(runs, key=lambda one: one["loop_delay_ms"]["p99"])[len(runs) // 2]
        with_it, without = run["loop_delay_ms"], run["loop_delay_without_ms"]
        rows.append(
            (
                f"{int(calls):,}",
                f"{run['turns_per_s']:,}",
                f"{run['cpu_cores']:.3f}",
                f"{run['cpu_cores_without']:.3f}",
                f"{run['memory_mb']:.0f}",
                f"{with_it['p50']} / {with_it['p99']}",
                f"{without['p50']} / {without['p99']}",
                f"{sum(one['lost'] for one in runs)}",
            )
        )
    head = ("calls", "turns/s", "cores", "without", "MB", "delay p50 / p99, ms", "without", "spans lost")
    yield from _table(head, rows)


def _runs(results: dict[str, Found]) -> Iterator[str]:
    yield from _section(
        "## When it was measured",
        "With the load of the machine when each script began: beside other work, times are too long and "
        "intervals wide. All figures, also of what stands in no table here, are in "
        "`benchmarks/results.json`.",
    )
    rows = [
        (
            f"`{name}.py`",
            found.get("at", "-"),
            f"{found.get('load', '-')}",
            f"{found.get('took_s', '-')} s",
            f"failed: {found['failed']}" if "failed" in found else "",
        )
        for name, found in results.items()
    ]
    yield from _table(("script", "day", "load", "took", ""), rows)


def _libraries(peers: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(name, peer) for name, peer in peers.items() if name.partition(",")[0] not in FRAMEWORKS]


def _name(name: str, peer: Any) -> str:
    version = f" {peer['version']}" if "version" in peer and name not in ("bare", "ours, traces") else ""
    return NAMES.get(name, name) + version


def _of(cost: Any) -> str:
    if "ratio" not in cost:
        return "1"
    ratio = cost["ratio"]
    return f"{ratio['median']:.2g} ({ratio['low']:.2g} to {ratio['high']:.2g})"


def _added(cost: Any) -> str:
    added = cost["added"]
    return f"{added['median']:,.0f} ({added['low']:,.0f} to {added['high']:,.0f})"


def _section(heading: str, text: str) -> Iterator[str]:
    yield heading
    yield ""
    yield from _prose(text)
    yield ""


def _prose(text: str) -> Iterator[str]:
    yield textwrap.fill(text, 124, break_long_words=False, break_on_hyphens=False)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|---" * len(head) + "|"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', '/') for cell in row)} |"
