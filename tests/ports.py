"""Ports for servers that a test starts later, by number."""

from __future__ import annotations

import itertools
import os
import random
import socket

_FIRST = 20_000
"""Below what Linux gives to connections and to port 0 (from 32,768): nobody else takes one of them meanwhile."""
_EACH = 1_500
_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8
_next = itertools.count(random.randrange(_EACH))  # so that two runs side by side seldom try the same


def free_port() -> int:
    """Return a port of this machine that nobody listens on, another one each time.

    Raises:
        OSError: none of a worker's ports is free.

    """
    for number in itertools.islice(_next, _EACH):
        port = _FIRST + _EACH * _WORKER + number % _EACH
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                probe.listen()
            except OSError:
                continue
            return port
    raise OSError("no port is free")
