"""Spans, log records and metrics as they leave the process: without what was said, and every string redacted.

Nobody's own object is changed. What was said leaves only with VOICESPAN_CONTENT, and only for this machine.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, TypeVar

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.trace import Link, Status

from voicespan import names as n
from voicespan.content_names import MESSAGES, verdicts
from voicespan.diagnostics import counters
from voicespan.redaction import redact, redact_identity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from opentelemetry.sdk.metrics.export import MetricsData

_Value = TypeVar("_Value")
_IDENTITIES = frozenset({n.SESSION_ID, n.GEN_AI_CONVERSATION_ID})

_MAX_RESOURCES = 16
_resources: dict[int, tuple[Resource, Resource]] = {}
"""By identity, since comparing two resources takes longer than redacting one; a process has one or two."""


def attributes(given: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return attributes with their strings redacted; the same object where there was nothing to redact."""
    if not given:
        return given
    changed = {
        key: clean
        for key, value in given.items()
        if (clean := text(key, value) if isinstance(value, str) else _clean(value)) is not value
    }
    if any(names[key] != key for key in given):
        return {names[key]: changed.get(key, value) for key, value in given.items()}
    return {**given, **changed} if changed else given


def text(key: str, value: str) -> str:
    """Return the text of an attribute, redacted; the same object where there was nothing to redact."""
    clean = redact_identity(value) if key in _IDENTITIES else redact(value)
    return value if clean == value else clean


class _Names(dict[str, str]):
    """Names of attributes that were seen, and how they leave; bounded, because services make up names."""

    def __missing__(self, name: str) -> str:
        if len(self) >= _MAX_NAMES:
            self.clear()
        clean = redact(name)
        self[name] = name if clean == name else clean
        return self[name]


names = _Names()
_MAX_NAMES = 4096


def _unsaid(given: Mapping[str, Any] | None, *, whole: bool = False) -> Mapping[str, Any] | None:
    """Return attributes without what was said; `whole`: all of it was. The same object where nothing was."""
    if not given or not (whole or any(verdicts[key] for key in given)):
        return given
    kept = {} if whole else {key: value for key, value in given.items() if not verdicts[key]}
    counters.add("content.left_out", len(given) - len(kept))
    return kept


def _clean(value: Any) -> Any:
    """Return a value of any shape that OTLP carries; the same object where there was nothing to redact."""
    if isinstance(value, str):
        clean = redact(value)
        return value if clean == value else clean
    if isinstance(value, dict):
        pairs = {_clean(key): _clean(each) for key, each in value.items()}
        same = len(pairs) == len(value) and all(pairs.get(key, pairs) is each for key, each in value.items())
        return value if same else pairs
    if isinstance(value, list | tuple):
        items = [_clean(each) for each in value]
        return type(value)(items) if any(new is not old for new, old in zip(items, value, strict=True)) else value
    return value


def resource(given: Resource) -> Resource:
    """Return a resource, redacted once."""
    known = _resources.get(id(given))
    if known is not None and known[0] is given:
        return known[1]
    clean = attributes(given.attributes)
    made = given if clean is given.attributes else Resource(dict(clean or {}), given.schema_url)
    if len(_resources) >= _MAX_RESOURCES:
        _resources.clear()
    _resources[id(given)] = given, made
    return made


class _Scrubbed(ReadableSpan):
    """A span in other words; what the original had dropped stays counted."""

    def __init__(self, span: ReadableSpan, **new: Any) -> None:
        self.__dict__.update(span.__dict__)
        self.__dict__.update(new)
        self._dropped = span.dropped_attributes, span.dropped_events, span.dropped_links

    @property
    def dropped_attributes(self) -> int:
        """Attributes over the limit."""
        return self._dropped[0]

    @property
    def dropped_events(self) -> int:
        """Events over the limit."""
        return self._dropped[1]

    @property
    def dropped_links(self) -> int:
        """Links over the limit."""
        return self._dropped[2]


class _ScrubbedEvent(Event):
    """An event in other words."""

    def __init__(self, event: Event, name: str, new: Mapping[str, Any] | None) -> None:
        super().__init__(name, new, event.timestamp)
        self._dropped = event.dropped_attributes

    @property
    def dropped_attributes(self) -> int:
        """Attributes over the limit."""
        return self._dropped


def spans(batch: Sequence[ReadableSpan], *, content: bool = False) -> list[ReadableSpan]:
    """Return spans with name, attributes, events, links, status message and resource redacted."""
    return [_span(span, content=content) for span in batch]


def _span(span: ReadableSpan, *, content: bool) -> ReadableSpan:
    new: dict[str, Any] = {}
    if (name := _clean(span.name)) is not span.name:
        new["_name"] = name
    own = span.attributes
    if (clean := attributes(own if content else _unsaid(own))) is not own:
        new["_attributes"] = clean
    if span.events and (events := _events(span, content=content)) is not None:
        new["_events"] = events
    if span.links and (links := _links(span)) is not None:
        new["_links"] = links
    words = span.status.description
    if words and (said := _clean(words)) is not words:
        new["_status"] = Status(span.status.status_code, said)
    if (who := resource(span.resource)) is not span.resource:
        new["_resource"] = who
    return _Scrubbed(span, **new) if new else span


def _events(span: ReadableSpan, *, content: bool) -> list[Event] | None:
    """Return the events in other words; None where nothing had to change."""
    found = [_event(event, content=content) for event in span.events]
    return found if any(new is not old for new, old in zip(found, span.events, strict=True)) else None


def _event(event: Event, *, content: bool) -> Event:
    name, own = _clean(event.name), event.attributes
    clean = attributes(own if content else _unsaid(own, whole=event.name in MESSAGES))
    return event if name is event.name and clean is own else _ScrubbedEvent(event, name, clean)


def _links(span: ReadableSpan) -> list[Link] | None:
    found = [
        link if (clean := attributes(link.attributes)) is link.attributes else Link(link.context, clean)
        for link in span.links
    ]
    return found if any(new is not old for new, old in zip(found, span.links, strict=True)) else None


def logs(batch: Sequence[Any], *, content: bool = False) -> list[Any]:
    """Return log records with body, attributes, the event's name and resource redacted."""
    return [_log(record, content=content) for record in batch]


def _log(record: Any, *, content: bool) -> Any:
    inner = record.log_record
    message = not content and inner.event_name in MESSAGES
    body = None if message else _clean(inner.body)
    clean = attributes(inner.attributes if content else _unsaid(inner.attributes, whole=message))
    name = _clean(inner.event_name)
    who = resource(record.resource)
    if body is inner.body and clean is inner.attributes and name is inner.event_name and who is record.resource:
        return record
    new = _copy(inner)
    new.body, new.attributes, new.event_name = body, clean, name
    return dataclasses.replace(record, log_record=new, resource=who)


def _copy(record: _Value) -> _Value:
    made = object.__new__(type(record))
    made.__dict__.update(record.__dict__)
    return made


def metrics(data: MetricsData) -> MetricsData:
    """Return metrics with label values, exemplars' attributes and resource redacted."""
    return dataclasses.replace(
        data,
        resource_metrics=[
            dataclasses.replace(
                each,
                resource=resource(each.resource),
                scope_metrics=[
                    dataclasses.replace(scope, metrics=[_metric(metric) for metric in scope.metrics])
                    for scope in each.scope_metrics
                ],
            )
            for each in data.resource_metrics
        ],
    )


def _metric(metric: Any) -> Any:
    points = [_point(point) for point in metric.data.data_points]
    if all(new is old for new, old in zip(points, metric.data.data_points, strict=True)):
        return metric
    return dataclasses.replace(metric, data=dataclasses.replace(metric.data, data_points=points))


def _point(point: Any) -> Any:
    clean = attributes(point.attributes)
    exemplars = [_exemplar(exemplar) for exemplar in point.exemplars]
    same = clean is point.attributes and all(new is old for new, old in zip(exemplars, point.exemplars, strict=True))
    return point if same else dataclasses.replace(point, attributes=clean, exemplars=exemplars)


def _exemplar(exemplar: Any) -> Any:
    clean = attributes(exemplar.filtered_attributes)
    same = clean is exemplar.filtered_attributes
    return exemplar if same else dataclasses.replace(exemplar, filtered_attributes=clean)
