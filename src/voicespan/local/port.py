"""Finding a port to listen on, and who holds it when it is taken."""

from __future__ import annotations

import errno
import json
import socket
import urllib.request
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

_TRIES = 20
_HEALTH_TIMEOUT_S = 0.5
_LOCAL = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Asks on this machine, whatever proxy the environment names."""

_LISTENING = "0A"  # state of a socket in /proc/net/tcp


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to `port`, else to the next free port after it; 0 is any free port.

    Raises:
        OSError: the host is not an address of this machine, or none of the ports can be had.

    """
    for candidate in [port] if port == 0 else range(port, min(port + _TRIES, 65536)):
        try:
            return _bind(host, candidate)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    return _bind(host, 0)


def is_free(host: str, port: int) -> bool:
    """Return whether nobody listens on this port; 0 is always free.

    Raises:
        OSError: the host is not an address of this machine.

    """
    try:
        _bind(host, port).close()
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    return True


def reachable(host: str) -> str:
    """Return how this machine writes the address of a server of its own."""
    return _LOCAL.get(host) or bracketed(host)


def known(host: str) -> str:
    """Return how other machines write it, where they can reach it."""
    return socket.gethostname() if host in _LOCAL else bracketed(host)


def bracketed(host: str) -> str:
    """Return the host as it stands in a URL."""
    return f"[{host}]" if ":" in host else host


def holder(port: int) -> str:
    """Say who listens on this port of this machine, as well as it can be known."""
    receiver = _receiver(port)
    if receiver is not None:
        return f"another voicespan receiver (process {receiver.get('pid')}, database {receiver.get('database')})"
    with suppress(OSError, ValueError):
        return _process(port)
    return "another process"


def _bind(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    server = socket.socket(family, kind, protocol)
    try:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(address)
        server.listen(socket.SOMAXCONN)  # here, because binding alone does not find out a port that is taken
    except BaseException:
        server.close()
        raise
    return server


def _receiver(port: int) -> dict[str, object] | None:
    try:
        with _DIRECT.open(f"http://127.0.0.1:{port}/health", timeout=_HEALTH_TIMEOUT_S) as answer:
            said = json.loads(answer.read(4096))
    except (OSError, ValueError, HTTPException):  # the last is what a gRPC server makes of it
        return None
    return said if isinstance(said, dict) and said.get("service") == "voicespan" else None


def _process(port: int) -> str:
    """Ask Linux's process table. It tells about processes of the same user only."""
    sockets = {f"socket:[{inode}]" for inode in _inodes(port)}
    for folder in Path("/proc").glob("[0-9]*/fd"):
        with suppress(OSError):
            if any(_link(entry) in sockets for entry in folder.iterdir()):
                return _named(folder.parent)
    return "another process"


def _link(entry: Path) -> str:
    """What a file descriptor is, empty where it has been closed since it was listed."""
    try:
        return str(entry.readlink())
    except OSError:
        return ""


def _inodes(port: int) -> list[str]:
    tables = [Path("/proc/net/tcp"), Path("/proc/net/tcp6")]
    lines = [line.split() for table in tables if table.exists() for line in table.read_text().splitlines()[1:]]
    return [line[9] for line in lines if line[3] == _LISTENING and int(line[1].rpartition(":")[2], 16) == port]


def _named(process: Path) -> str:
    words = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
    command = " ".join(word for word in words if word)[:120]
    printable = "".join(letter if letter.isprintable() else "?" for letter in command)
    return f"process {process.name} ({printable})" if printable else f"process {process.name}"
