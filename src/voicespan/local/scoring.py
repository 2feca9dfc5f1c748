"""`voicespan score`: how good a turn was, sent where its spans went."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import click

from voicespan import scores
from voicespan.distro import set_defaults
from voicespan.local.origin import OriginError
from voicespan.local.reader import UnknownTurnError
from voicespan.local.schema import StoreError
from voicespan.local.terminal import errors, json_option, origin_options
from voicespan.sdk.exporters import makers

if TYPE_CHECKING:
    from opentelemetry._logs import LogRecord

    from voicespan.local.origin import Origin
    from voicespan.local.turn import Turn
    from voicespan.sdk.exporters import Maker

_TRACE_DIGITS = 32


@click.command()
@click.argument("trace", metavar="TRACE|last")
@click.option("--name", required=True, help="What is judged: helpful, correct, csat.")
@click.option("--value", type=float, help="The verdict as a number, on a scale of your own.")
@click.option("--label", help="The verdict as a word: good, fail.")
@click.option("--explanation", help="Why. It is content: a viewer keeps it only with --content.")
@click.option("--endpoint", metavar="URL", help="Where telemetry goes (OTEL_EXPORTER_OTLP_ENDPOINT).")
@origin_options
@json_option
def score_turn(
    *,
    trace: str,
    name: str,
    value: float | None,
    label: str | None,
    explanation: str | None,
    endpoint: str | None,
    origin: Origin,
    as_json: bool,
) -> None:
    """Say how good a turn was: the feedback of its user, or the verdict of an evaluation.

    The turn is found in the local store, or where --from says; a whole trace id need not be known there. The score is
    sent as an OTLP log record (event gen_ai.evaluation.result) by the variables of a service.
    """
    if value is None and label is None:
        raise click.UsageError("a score is a --value, a --label, or both")
    trace_id, turn = _find(trace, origin)
    set_defaults(os.environ)
    if endpoint:
        os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = endpoint
        os.environ.pop("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", None)
    os.environ["OTEL_LOGS_EXPORTER"] = "otlp"
    (maker,) = makers("logs", os.environ)
    _send(maker, scores.record(int(trace_id, 16), name, value, label, explanation), turn)
    if as_json:
        sent: dict[str, Any] = {"name": name, "value": value, "label": label, "explanation": explanation}
        click.echo(json.dumps({"trace_id": trace_id, **sent, "known": turn is not None, "sent_to": maker.target}))
    else:
        click.echo(f"sent to {maker.target}: {name} of trace {trace_id}")


def _find(trace: str, origin: Origin) -> tuple[str, Turn | None]:
    """Return the trace id, and the turn where it is known."""
    is_whole = len(trace) == _TRACE_DIGITS and not set(trace.lower()) - set("0123456789abcdef")
    try:
        with origin.trace(trace) as (reader, trace_id):
            return trace_id, reader.turn(trace_id)
    except (StoreError, UnknownTurnError, OriginError) as error:
        if not is_whole:
            with errors():
                raise
        click.echo(f"voicespan: {error}: the score is sent all the same", err=True)
        return trace.lower(), None


def _send(maker: Maker, record: LogRecord, turn: Turn | None) -> None:
    """Send the event, exactly as a service would; end with status 1 where it is not taken."""
    from opentelemetry.sdk._logs import ReadableLogRecord
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope

    from voicespan import names as n
    from voicespan.sdk import resource, scrub
    from voicespan.sdk.export import Why

    service = (turn and turn.service) or resource.service_name(os.environ) or "voicespan"
    who = Resource.create({n.SERVICE_NAME: service})
    (clean,) = scrub.logs([ReadableLogRecord(record, who, InstrumentationScope("voicespan"))], content=True)
    place = maker.endpoint
    reason = place and (place.mistake or place.unreachable())
    if not reason:
        exporter = maker()
        why = Why(exporter)
        why.begin()
        try:
            refusal = why.of(exporter.export([clean]))
            reason = refusal.reason if refusal else None
        finally:
            exporter.shutdown()
    if reason:
        raise click.ClickException(f"{maker.target} did not take the score: {reason} (voicespan doctor says more)")
