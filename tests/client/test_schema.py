"""The endpoint against everything that its published schema allows, and much that it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    status_code_conformance,
    unsupported_method,
)

import voicespan
from voicespan import diagnostics
from voicespan.client.endpoint import Limits
from voicespan.client.report import read

if TYPE_CHECKING:
    from schemathesis import Case

    from voicespan.client.endpoint import Taken

taken: list[Taken] = []
_MANY = Limits(client_burst=10**6, address_burst=10**6)
schema = schemathesis.openapi.from_asgi("/openapi.json", voicespan.client_reports(on_report=taken.append, limits=_MANY))
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    negative_data_rejection,
    unsupported_method,
]


@pytest.mark.timeout(240)
@pytest.mark.covers("A-Q07", "A-E02")
@schema.parametrize()
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_the_endpoint_keeps_to_its_schema(case: Case[Any]) -> None:
    """Whatever is sent, the answer is one of the schema's; what it forbids is refused, and only reports are kept."""
    before = len(taken)
    failed = diagnostics.counters.get("internal_error")
    answer = case.call_and_validate(checks=CHECKS)
    assert len(taken) - before <= (answer.status_code == 204)
    assert diagnostics.counters.get("internal_error") == failed
    for each in taken[before:]:
        assert read(each.report.model_dump_json().encode()) == each.report
