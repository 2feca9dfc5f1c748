"""What several tests of the demo need."""

from __future__ import annotations

import socket

import pytest


@pytest.fixture
def free_port() -> int:
    """Give a port on which nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])
