"""Handing requests on to another endpoint, as they came."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import httpx
from tests.ports import free_port

from voicespan.local.forward import MAX_WAITING, Forward
from voicespan.local.server import Receiver

from .otlp import request, turn

if TYPE_CHECKING:
    import pytest

PROTOBUF = {"Content-Type": "application/x-protobuf"}


def test_requests_are_stored_here_and_there() -> None:
    """Two receivers in a row have the same turns, and the first says how many requests it handed on."""
    body = request(*turn().spans).SerializeToString()
    with Receiver(port=0) as back, Receiver(port=0, forward=back.endpoint) as front:
        assert httpx.post(f"{front.endpoint}/v1/traces", content=body, headers=PROTOBUF).status_code == 200
        assert front.forward is not None
        front.forward.flush()
        assert (front.forward.sent, front.forward.lost) == (1, 0)
        assert back.store.reader.count() == front.store.reader.count() == 1


def test_an_endpoint_that_is_not_there_costs_nobody_anything(capsys: pytest.CaptureFixture[str]) -> None:
    """What cannot be handed on is kept here all the same, counted as lost, and said once."""
    nobody = f"http://127.0.0.1:{free_port()}"
    with Receiver(port=0, forward=nobody) as front:
        body = request(*turn().spans).SerializeToString()
        for _ in range(2):
            assert httpx.post(f"{front.endpoint}/v1/traces", content=body, headers=PROTOBUF).status_code == 200
        assert front.store.reader.count() == 1
        forward = front.forward
    assert forward is not None
    assert (forward.sent, forward.lost) == (0, 2)
    assert capsys.readouterr().err.count(f"{nobody} does not get all requests") <= 1


def test_what_waits_is_bounded() -> None:
    """An endpoint that takes its time keeps so many requests waiting and no more."""
    with socket.create_server(("127.0.0.1", 0)) as slow:
        forward = Forward(f"http://127.0.0.1:{slow.getsockname()[1]}")
        for _ in range(MAX_WAITING + 10):
            forward.put("traces", "application/x-protobuf", b"x")
        assert forward.lost >= 9
        forward.close(timeout_s=0.1)
    assert forward.lost >= MAX_WAITING + 9
