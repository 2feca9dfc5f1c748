"""Where the telemetry of a signal goes, and whether anybody listens there."""

from __future__ import annotations

import os
import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING, Literal, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

Signal = Literal["traces", "metrics", "logs"]

_DEFAULT_PORTS = {"http": 80, "https": 443}
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")


in_use: dict[Signal, Endpoint] = {}
"""Where the signals of this process go; empty until its providers are made."""


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine's own, without asking a name server."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


class Endpoint(NamedTuple):
    """The address that the standard variables give for one signal, as the SDK's OTLP exporters understand them."""

    signal: Signal
    protocol: str
    url: str
    variable: str
    """The variable that gave the address, empty for the default."""

    @classmethod
    def read(cls, signal: Signal, environ: Mapping[str, str]) -> Endpoint:
        """Read `OTEL_EXPORTER_OTLP_*`; never raises."""
        own, shared = f"OTEL_EXPORTER_OTLP_{signal.upper()}", "OTEL_EXPORTER_OTLP"
        protocol = (environ.get(f"{own}_PROTOCOL") or environ.get(f"{shared}_PROTOCOL") or "http/protobuf").strip()
        path = "" if protocol == "grpc" else f"/v1/{signal}"
        default = "http://localhost:4317" if protocol == "grpc" else "http://localhost:4318"
        if url := environ.get(f"{own}_ENDPOINT"):
            return cls(signal, protocol, url, f"{own}_ENDPOINT")
        if base := environ.get(f"{shared}_ENDPOINT"):
            return cls(signal, protocol, base.removesuffix("/") + path, f"{shared}_ENDPOINT")
        return cls(signal, protocol, default + path, "")

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port, None when the URL has none."""
        try:
            parts = urlsplit(self.url if "//" in self.url else f"//{self.url}")
            port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
        except ValueError:
            return None
        return (parts.hostname, port) if parts.hostname and port else None

    @property
    def server(self) -> str:
        """The URL without its path."""
        head, _, rest = self.url.rpartition("//")
        return f"{head}//{rest.split('/')[0]}" if head else rest.split("/")[0]

    @property
    def _given(self) -> str:
        """The URL as the variable has it: the SDK adds the path to the one for all signals."""
        return self.url if self.signal.upper() in self.variable else self.url.removesuffix(f"/v1/{self.signal}")

    @property
    def mistake(self) -> str | None:
        """What is wrong with the URL itself, with what to write instead; None when nothing is."""
        if self.protocol != "grpc" and not self.url.startswith(("http://", "https://")):
            return f"{self.variable}={self._given} has no scheme: write http://{self._given.lstrip('/')}"
        if self.address is None:
            return f"{self.variable}={self._given} has no host"
        _, port = self.address
        if self.protocol != "grpc" and port == 4317:  # noqa: PLR2004
            return (
                f"{self.url} is the usual port of OTLP over gRPC, but the protocol is {self.protocol}: "
                "use port 4318, or OTEL_EXPORTER_OTLP_PROTOCOL=grpc"
            )
        if self.protocol == "grpc" and port == 4318:  # noqa: PLR2004
            return (
                f"{self.url} is the usual port of OTLP over HTTP, but the protocol is grpc: "
                "use port 4317, or OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf"
            )
        return None

    def unreachable(self, timeout_s: float = 3.0) -> str | None:
        """Open and close a connection; return why that failed, None when it did not or a proxy is in between."""
        if self.address is None or any(os.environ.get(name) or os.environ.get(name.upper()) for name in _PROXIES):
            return None
        try:
            socket.create_connection(self.address, timeout=timeout_s).close()
        except socket.gaierror:
            return "unknown host name"
        except ConnectionRefusedError:
            return "connection refused"
        except TimeoutError:
            return "no answer in time"
        except OSError as error:
            return error.strerror or str(error)
        return None
