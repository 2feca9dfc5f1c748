"""Questions over many turns: where the silence goes, what changed, what it costs, and whether promises are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from voicespan import names as n
from voicespan.stack import promql as q
from voicespan.stack import rules, slo
from voicespan.stack.dashboards import common as c
from voicespan.stack.dashboards import panels as p
from voicespan.stack.dashboards.board import (
    LANGUAGE,
    MODEL,
    TRANSPORT,
    VOICE,
    Board,
    Filter,
    custom,
    one_of,
    textbox,
    values_of,
)
from voicespan.stack.objectives import seconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from voicespan.stack.dashboards.panels import Panel
    from voicespan.stack.objectives import Objectives

SPAN = "$__range"
"""What a table of now looks back on: all that the dashboard shows."""
NEEDS_TEMPO = "From the turns themselves; needs Tempo, and Grafana 11 or later."

_EDGES = (
    (n.SPAN_VAD_ENDPOINT, n.SPAN_ASR_FINALIZE),
    (n.SPAN_ASR_FINALIZE, n.SPAN_LLM_TTFT),
    (n.SPAN_LLM_TTFT, n.SPAN_LLM_FIRST_SENTENCE),
    (n.SPAN_LLM_FIRST_SENTENCE, n.SPAN_TTS_FIRST_AUDIO),
    (n.SPAN_TTS_FIRST_AUDIO, n.SPAN_PLAYBACK_START),
    (n.SPAN_VAD_ENDPOINT, n.SPAN_REALTIME_FIRST_AUDIO),
    (n.SPAN_REALTIME_FIRST_AUDIO, n.SPAN_PLAYBACK_START),
)
"""How the latencies of a turn follow each other, for the graph."""


def pipeline(objectives: Objectives) -> Board:
    """Return the pipeline of a turn: stages, shares of the silence, what changed, slow turns."""
    of = Filter(MODEL, TRANSPORT, VOICE, LANGUAGE)
    changes = (
        _changed(of, n.SPAN_LLM_TTFT, c.MODEL, "By model", "Time to first token (p95) of each model."),
        _changed(of, n.SPAN_TTS_FIRST_AUDIO, c.VOICE, "By voice", "First audio (p95) of each voice."),
        _changed(of, n.SPAN_TTS_FIRST_AUDIO, c.WORKER, "By worker", "First audio (p95) of each worker."),
        _changed(of, n.SPAN_RESPONSE, c.MODEL, "Silence by model", "Heard silence (p95) with each model."),
        _changed(of, n.SPAN_RESPONSE, c.VOICE, "Silence by voice", "Heard silence (p95) with each voice."),
        _changed(of, n.SPAN_RESPONSE, c.WORKER, "Silence by worker", "Heard silence (p95) with each worker."),
    )
    tool = of.span(n.SPAN_EXECUTE_TOOL)
    tools = (
        c.latency(of, n.SPAN_EXECUTE_TOOL, "Tools (p95)", "Call to result.", by=(c.TOOL,), shares=(0.95,), width=12),
        c.calls("Calls of tools", "Per second.", tool, by=(c.TOOL,), width=12),
    )
    interrupted = of.trace(n.SPAN_TURN, f'span.{n.VOICE_TURN_OUTCOME} = "interrupted"')
    turns = (
        c.slow_turns(of),
        c.slow_turns(of, span_name=n.SPAN_UNANSWERED, title="Turns without an answer"),
        p.trace_table("Interrupted turns", "A click opens the trace.", f"{{ {interrupted} }}", link=c.TO_WATERFALL),
        p.waterfall(
            "Turn",
            "The stages of one turn: choose it in a table of slow turns, or write its trace id above.",
            "${trace}",
        ),
    )
    return Board(
        "voicespan-pipeline",
        "Voice Pipeline",
        "Where the silence goes: stage by stage, what changed, and the turns themselves.",
        of,
        (
            ("Stages", _stages(of, objectives)),
            ("What the silence is made of", _shares(of)),
            ("What changed", changes),
            ("Tools", tools),
            ("Turns", turns),
        ),
        choices=(
            custom("slow", "Slow from", c.SLOW),
            custom("before", "Compare with", ("1h", "1d", "7d")),
            textbox("trace", "Trace id"),
        ),
    )


def _stages(of: Filter, objectives: Objectives) -> tuple[Panel, ...]:
    p90 = q.quantile(0.9, q.DURATION, of.spans(*c.MILESTONES), (q.SPAN_NAME,), "5m")
    # The graph takes each field by its name, so that the number has to be a label of that name.
    nodes = f'count_values by ({q.SPAN_NAME}) ("mainstat", round(1000 * {p90}))'
    for name, value, label in (
        ("mainstat", "$1 ms", "mainstat"),
        ("id", "$1", q.SPAN_NAME),
        ("title", "$1", q.SPAN_NAME),
    ):
        nodes = f'label_replace({nodes}, "{name}", "{value}", "{label}", "(.*)")'
    slowest = p.stat(
        "Slowest stage",
        "The stage that takes most of the silence in most turns, of each service.",
        f"{q.select(rules.BOTTLENECK, of.any_span())} > 0",
        "cps",
        legend=p.legend(q.JOB, c.BOTTLENECK),
        names_only=True,
        width=8,
        height=8,
    )
    return (
        p.node_graph(
            "Stages",
            "The latency that each stage adds (p90 of 5 minutes), in the order in which they pass.",
            nodes,
            _edges(of),
        ),
        slowest,
        c.latency(
            of,
            n.SPAN_RESPONSE,
            "Heard silence",
            "End of speech to the first sample heard.",
            by=(q.POINT,),
            shares=(0.5, 0.9),
            line=c.limit(objectives, "HighEndToEndLatency"),
        ),
        p.timeseries(
            "Latency of the stages (p90)",
            "What each stage adds." + p.EXEMPLARS,
            p.percentiles(q.DURATION, of.spans(*c.MILESTONES), (0.9,), (q.SPAN_NAME,)),
            "s",
        ),
    )


def _edges(of: Filter) -> str:
    """Return an edge for each step of which both ends were seen."""

    def seen(span_name: str) -> str:
        return f"group({q.select(q.CALLS, of.span(span_name))})"

    edges = []
    for source, target in _EDGES:
        edge = f"({seen(source)} and {seen(target)})"
        for name, value in (("id", f"{source}-{target}"), ("source", source), ("target", target)):
            edge = f'label_replace({edge}, "{name}", "{value}", "", "")'
        edges.append(edge)
    return " or ".join(edges)


def _shares(of: Filter) -> tuple[Panel, ...]:
    everybody = of.spans(n.SPAN_RESPONSE, n.SPAN_UNANSWERED)
    counts = c.per_second(q.CALLS, everybody, (c.BOTTLENECK,))
    mean = q.mean(q.DURATION, of.span(n.SPAN_RESPONSE, c.AT), (c.BOTTLENECK,), p.RATE)
    there = f'span.{n.VOICE_MEASUREMENT_POINT} = "$point"'
    shares = {stage: _total(of, n.SPAN_RESPONSE, n.SHARE_PREFIX + stage, there) for stage in n.SHARE_STAGES}
    return (
        p.trace_lines(
            "Shares of the silence",
            f"All heard silence of an interval, by the stage that took it. {NEEDS_TEMPO}",
            shares,
            "s",
            stacked=True,
            width=12,
        ),
        p.lines(
            "Turns by their bottleneck",
            "Which stage had the largest part of the silence, in turns per second.",
            counts,
            "cps",
            by=(c.BOTTLENECK,),
            stacked=True,
            width=6,
        ),
        p.lines(
            "Silence by its bottleneck",
            "Mean length of the heard silences in which this stage had the largest part.",
            mean,
            "s",
            by=(c.BOTTLENECK,),
            width=6,
        ),
        p.heatmap(
            "Distribution of the silence",
            "Turns by the length of their silence, at the chosen place of measurement.",
            q.DURATION,
            of.span(n.SPAN_RESPONSE, c.AT),
        ),
        p.heatmap(
            "Distribution of the unanswered",
            "How long users waited who heard nothing.",
            q.DURATION,
            of.span(n.SPAN_UNANSWERED),
        ),
    )


def _total(of: Filter, span_name: str, attribute: str, *conditions: str) -> str:
    """Return the TraceQL for the sum of an attribute; without the first condition one span that lacks it hides all."""
    there = " && ".join((f"span.{attribute} != nil", *conditions))
    return f"{{ {of.trace(span_name, there)} }} | sum_over_time(span.{attribute})"


def _known(quantile: str) -> str:
    """Return a quantile without what did not happen, which would be a row that is not a number."""
    return f"({quantile} >= 0)"


def _changed(of: Filter, span_name: str, label: str, title: str, description: str) -> Panel:
    """Return p95 of the range on display and of the same range before, by a label."""
    placed = (c.AT,) if span_name == n.SPAN_RESPONSE else ()
    buckets = q.select(f"{q.DURATION}_bucket", of.span(span_name, *placed, f'{label}!=""'))

    def p95(offset: str) -> str:
        asked = q.total(f"rate({buckets}[{SPAN}]{offset})", ("le", label))
        return _known(f"histogram_quantile(0.95, {asked})")

    now, before = p95(""), p95(" offset $before")
    return p.table(
        title,
        f"{description} Now is the range on display, before is the same range earlier.",
        (("Now", now, "s"), ("Before", before, "s"), ("Change", f"{now} - {before}", "s")),
        names={label: title.rsplit(maxsplit=1)[-1].capitalize()},
        width=8,
        height=7,
    )


def versions(objectives: Objectives) -> Board:
    """Return two versions of a service side by side."""
    of = Filter(TRANSPORT)
    chosen = f'{c.VERSION}=~"$baseline|$candidate"'
    turns = of.span(n.SPAN_TURN, chosen)
    everybody = [*of.spans(n.SPAN_RESPONSE, n.SPAN_UNANSWERED), chosen]
    by = (c.VERSION,)

    def of_stages(version: str) -> str:
        spans = [*of.spans(*c.MILESTONES, n.SPAN_RESPONSE), f'{c.VERSION}="{version}"']
        return _known(q.quantile(0.9, q.DURATION, spans, (q.SPAN_NAME, q.POINT), SPAN))

    def part(title: str, description: str, matchers: Sequence[str], whole: Sequence[str], alert: str = "") -> Panel:
        found = q.ratio(c.per_second(q.CALLS, matchers, by), c.per_second(q.CALLS, whole, by))
        line = c.limit(objectives, alert) if alert else None
        return p.lines(title, description, found, "percentunit", by=by, line=line)

    old, new = of_stages("$baseline"), of_stages("$candidate")
    bottlenecks = c.per_second(q.CALLS, everybody, (c.VERSION, c.BOTTLENECK))
    all_of_version = c.per_second(q.CALLS, everybody, by)
    silence = (
        *(
            c.latency(
                of,
                n.SPAN_RESPONSE,
                f"Heard silence (p{share * 100:g})",
                "Of each version, at the chosen place of measurement.",
                chosen,
                c.AT,
                by=by,
                shares=(share,),
                line=c.limit(objectives, "HighEndToEndLatency"),
            )
            for share in (0.5, 0.95)
        ),
        c.calls("Turns", "Per second and version.", turns, by=by, stacked=True),
    )
    stages = (
        p.table(
            "Stages (p90)",
            "What each stage adds, with either version, over the range on display.",
            (("Baseline", old, "s"), ("Candidate", new, "s"), ("Change", f"{new} - {old}", "s")),
            names={q.SPAN_NAME: "Stage", q.POINT: "Measured at"},
            order=2,
        ),
        p.lines(
            "Bottlenecks",
            "Which stage had the largest part of the silence, as a share of the turns of each version.",
            f"{bottlenecks} / on ({c.VERSION}) group_left () {all_of_version}",
            "percentunit",
            by=(c.VERSION, c.BOTTLENECK),
            width=12,
        ),
    )
    success = (
        part(
            "Failed turns",
            "Share of turns that ended in an error or a time-out.",
            [*turns, q.is_(n.VOICE_TURN_OUTCOME, "error", "timeout")],
            turns,
        ),
        part(
            "Unanswered turns",
            "Share of turns in which the user heard nothing.",
            of.span(n.SPAN_UNANSWERED, chosen),
            everybody,
            "UnansweredTurns",
        ),
        part(
            "Interrupted turns",
            "Share of turns in which the user cut the agent off.",
            [*turns, q.is_(n.VOICE_TURN_OUTCOME, "interrupted")],
            turns,
        ),
    )
    return Board(
        "voicespan-versions",
        "Version Comparison",
        "What a deploy changed: two versions of a service, stage by stage.",
        of,
        (("Silence", silence), ("Stages", stages), ("Success", success)),
        since="now-6h",
        refresh="1m",
        choices=(
            one_of("baseline", "Baseline", c.VERSION, descending=False),
            one_of("candidate", "Candidate", c.VERSION, descending=True),
        ),
    )


def business() -> Board:
    """Return usage and cost."""
    of = Filter(MODEL, TRANSPORT, VOICE, LANGUAGE)
    turns = c.per_second(q.CALLS, of.span(n.SPAN_TURN))
    started = n.METRIC_VOICE_SESSION_STARTED
    sessions = c.per_second(q.series(started), of.direct(started))
    replies = of.span(n.SPAN_RESPONSE)
    usage = (
        p.stat("Sessions per hour", "New sessions.", f"3600 * {sessions}", "none", width=6),
        p.stat("Turns per hour", "Utterances, and what the agent began to say.", f"3600 * {turns}", "none", width=6),
        p.stat("Turns per session", "Turns over new sessions.", f"{turns} / ({sessions} > 0)", "none", width=6),
        p.stat(
            "Cost per call",
            f"{_PRICED}, over new sessions; empty without prices.",
            f"sum by (currency) ({_cost(of)}) / on () group_left () ({sessions} > 0)",
            "none",
            legend=p.legend("currency"),
            width=6,
        ),
        c.count(
            of,
            n.METRIC_VOICE_INTENTS,
            "Intents",
            "What users wanted.",
            by=(q.label(n.VOICE_INTENT_TYPE),),
            stacked=True,
        ),
        c.calls(
            "Languages",
            "Replies per second, by language.",
            [*replies, q.is_(n.VOICE_LANGUAGE)],
            by=(c.LANGUAGE,),
            stacked=True,
        ),
        c.calls(
            "Voices",
            "Replies per second, by voice.",
            [*replies, q.is_(n.VOICE_TTS_VOICE_NAME)],
            by=(c.VOICE,),
            stacked=True,
        ),
        c.calls(
            "Transports",
            "Turns per second, by how audio reaches the user.",
            of.span(n.SPAN_TURN),
            by=(c.TRANSPORT,),
            stacked=True,
            width=12,
        ),
        c.calls(
            "Models",
            "Requests per second, by model.",
            of.span(n.SPAN_LLM),
            by=(c.MODEL,),
            stacked=True,
            width=12,
        ),
    )
    return Board(
        "voicespan-business",
        "Business Metrics",
        "How much is talked, about what, in which voice, and what it costs.",
        of,
        (("Usage", usage), ("Cost", _costs(of, turns))),
        refresh="1m",
        since="now-6h",
    )


_PRICED = "Tokens and characters times the prices of deploy/slo.yaml"


def _cost(of: Filter) -> str:
    """Return the cost per second by its part; one that is not known is not there."""
    parts = ((rules.TOKEN_COST, "tokens"), (rules.CHARACTER_COST, "characters"))
    return " or ".join(
        f'label_replace({q.total(q.select(record, of.any_span()), ("currency",))}, "part", "{part}", "", "")'
        for record, part in parts
    )


def _tokens(*matchers: str | tuple[str, ...]) -> str:
    flat = [each for group in matchers for each in ((group,) if isinstance(group, str) else group)]
    used = q.select(q.series(n.METRIC_GEN_AI_CLIENT_TOKEN_USAGE, "_sum"), flat)
    return q.total(q.rate(used, "$__rate_interval"), (c.MODEL,))


def _part(of: str, whole: str) -> str:
    """Return a share that is 0, and not unknown, where there is nothing of the part."""
    return f"({of} or 0 * {whole}) / ({whole} > 0)"


def _priced(of: Filter, *matchers: str) -> str:
    return q.total(q.select(rules.TOKEN_COST, (*of.any_span(), *matchers)), ("currency",))


def _costs(of: Filter, turns: str) -> tuple[Panel, ...]:
    discarded = q.is_(n.VOICE_GENERATION_DISCARDED, "true")
    written = (*of.any_span(), q.is_(n.GEN_AI_TOKEN_TYPE, "output"))
    characters = _total(of, n.SPAN_TTS, n.VOICE_TEXT_LENGTH)
    return (
        c.count(
            of,
            n.METRIC_GEN_AI_CLIENT_TOKEN_USAGE,
            "Tokens",
            "Per second, by model and kind.",
            by=(c.MODEL, q.label(n.GEN_AI_TOKEN_TYPE)),
            part="_sum",
            stacked=True,
        ),
        p.lines("Cost per hour", f"{_PRICED}.", f"3600 * ({_cost(of)})", "none", by=("part", "currency"), stacked=True),
        p.lines(
            "Cost per turn",
            f"{_PRICED}, over turns.",
            f"({_cost(of)}) / on () group_left () ({turns} > 0)",
            "none",
            by=("part", "currency"),
            stacked=True,
        ),
        p.trace_lines(
            "Characters spoken",
            f"Handed to synthesis, by voice. {NEEDS_TEMPO}",
            {"": f"{characters} by (span.{n.VOICE_TTS_VOICE_NAME})"},
            "none",
            width=8,
        ),
        p.lines(
            "Tokens thrown away",
            "Share of the tokens that models wrote in advance and nobody heard.",
            _part(_tokens(written, discarded), _tokens(written)),
            "percentunit",
            by=(c.MODEL,),
            most=1,
        ),
        p.lines(
            "Cost of what was thrown away",
            f"Per hour, for tokens written in advance that nobody heard. {_PRICED}.",
            f"3600 * ({_priced(of, discarded)} or 0 * {_priced(of)})",
            "none",
            by=("currency",),
        ),
    )


def promises(objectives: Objectives) -> Board:
    """Return the objectives: kept or not, budget left, how fast it goes."""
    of = Filter()
    no_reply = n.VOICE_TURN_NO_REPLY_REASON
    # A comparison with what is not there is never true: errors and time-outs have no reason.
    counted = " && ".join(f'span.{no_reply} != "{reason}"' for reason in rules.UNCOUNTED_REASONS)
    waited = f"(span.{no_reply} = nil || ({counted}))"
    late = f"span:duration > {c.limit(objectives, 'HighEndToEndLatency'):g}s"
    bad = (
        p.trace_table(
            "Long silences", "A click opens the trace.", f"{{ {of.trace(n.SPAN_RESPONSE, late)} }}", width=12
        ),
        p.trace_table(
            "No answer", "A click opens the trace.", f"{{ {of.trace(n.SPAN_UNANSWERED, waited)} }}", width=12
        ),
    )
    return Board(
        "voicespan-slo",
        "SLO",
        "What was promised, and whether it is kept. The objectives are in deploy/slo.yaml.",
        of,
        (("Promises", _kept(of, objectives)), ("Error budgets", _budgets(of, objectives)), ("Bad turns", bad)),
        since="now-24h",
        refresh="1m",
        choices=(values_of("slo", "Objective", "slo", slo.OBJECTIVE),),
    )


def _kept(of: Filter, objectives: Objectives) -> tuple[Panel, ...]:
    jitter, pause = n.METRIC_VOICE_AUDIO_FRAME_JITTER, q.is_(n.VOICE_BARGE_IN_PHASE, "worker_pause")
    turns = of.span(n.SPAN_TURN)
    failed = [*turns, q.is_(n.VOICE_TURN_OUTCOME, "error", "timeout")]

    def promise(
        title: str, description: str, expression: str, limits: c.Colours, legend: str = "", unit: str = "percentunit"
    ) -> Panel:
        return p.stat(title, description, expression, unit, legend=legend, limits=limits, width=6, height=6)

    def in_time(alert: str, metric: str, matchers: Sequence[str]) -> str:
        within = q.within(c.limit(objectives, alert))
        good, everything = (
            q.rate(q.select(metric + part, [*matchers, *more]), "7d")
            for part, more in (("_bucket", [within]), ("_count", []))
        )
        return f"sum({good}) / sum({everything})"

    kept = c.from_(0.9, 0.95)
    return (
        promise(
            "Availability (30 d)",
            "Sessions that did not end in an error.",
            q.select(rules.AVAILABILITY, of.any_span()),
            c.from_(0.99, 0.995),
            p.legend(q.JOB),
        ),
        promise(
            "Turn success",
            "Turns of users that were answered.",
            q.select(rules.TURN_SUCCESS, of.any_span()),
            c.from_(0.98, 0.995),
            p.legend(q.JOB),
        ),
        promise(
            "First audio in time (7 d)",
            "Replies whose first audio came within the limit; 95 % are promised.",
            in_time("HighFirstAudioLatency", q.DURATION, of.span(n.SPAN_TTS_FIRST_AUDIO)),
            kept,
        ),
        promise(
            "Barge-in in time (7 d)",
            "Interruptions at which the worker paused within the limit; 95 % are promised.",
            in_time("HighBargeInLatency", q.DURATION, of.span(n.SPAN_BARGE_IN, pause)),
            kept,
        ),
        promise(
            "Frames in time (7 d)",
            "Frames whose jitter is within the limit; 95 % are promised.",
            in_time("HighFrameJitter", q.series(jitter), of.direct(jitter)),
            kept,
        ),
        promise(
            "Average silence",
            "Mean of the last hour; a test of 100 calls is held to this limit.",
            q.mean(q.DURATION, of.span(n.SPAN_RESPONSE), (q.POINT,), "1h"),
            c.until(c.limit(objectives, "LatencyTargetMissed")),
            p.legend(q.POINT),
            "s",
        ),
        promise(
            "Errors",
            "Turns that ended in an error or a time-out; less than 0.5 % are promised.",
            q.ratio(c.per_second(q.CALLS, failed), c.per_second(q.CALLS, turns)),
            c.until(0.005),
        ),
        promise(
            "Calls within the target",
            "Sessions that met the latency target of their service.",
            q.select(rules.LATENCY_TARGET, of.any_span()),
            kept,
            p.legend(q.JOB),
        ),
    )


def _budgets(of: Filter, objectives: Objectives) -> tuple[Panel, ...]:
    by = ("slo", q.JOB, q.POINT)
    hour = slo.SHOWN[-1]
    longest = max((burn.long for each in objectives.slos for burn in each.burns), key=seconds, default=hour)
    one = 'slo=~"$slo"'
    chosen = of.any_span(one)
    allowed = f"(1 - {q.select(slo.OBJECTIVE, [one])})"
    return (
        p.stat(
            "Budget left",
            "Of the period of each objective. Below 0 the promise is broken.",
            q.select(slo.REMAINING, chosen),
            "percentunit",
            legend=p.legend(*by),
            limits=c.from_(0, 0.25),
            width=12,
            height=8,
        ),
        p.timeseries(
            "Burn rate",
            "How many times too fast the budget is spent: 1 spends it exactly by the end of the period.",
            [
                p.query(
                    f"{q.select(slo.errors(window), chosen)} / on (slo) group_left () {allowed}",
                    f"{p.legend(*by)} ({window})",
                )
                for window in (hour, longest)
            ],
            "none",
            line=1,
            width=12,
        ),
        p.lines(
            "Bad events",
            "Share of the events of an hour that were bad.",
            q.select(slo.errors(hour), chosen),
            "percentunit",
            by=by,
            width=12,
        ),
        p.lines(
            "Events",
            "Counted events per second. With fewer than 50 in the window of an alert nobody is told.",
            q.select(slo.EVENTS, chosen),
            "cps",
            by=by,
            width=12,
        ),
    )
