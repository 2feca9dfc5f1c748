from __future__ import annotations

import socket

import pytest

from voicespan.sdk.endpoint import Endpoint


@pytest.mark.parametrize(
    ("environ", "protocol", "url"),
    [
        ({}, "http/protobuf", "http://localhost:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "grpc", "http://localhost:4317"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:1/"}, "http/protobuf", "http://c:1/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:1/x"}, "http/protobuf", "http://c:1/x"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:1", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "grpc"},
            "grpc",
            "http://c:1",
        ),
    ],
)
def test_the_address_is_the_exporters(environ: dict[str, str], protocol: str, url: str) -> None:
    """The standard variables give the address as the SDK's exporters read them."""
    endpoint = Endpoint.read("traces", environ)
    assert (endpoint.protocol, endpoint.url) == (protocol, url)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("http://c:4318/v1/traces", ("c", 4318)),
        ("http://c/v1/traces", ("c", 80)),
        ("https://c", ("c", 443)),
        ("c:4317", ("c", 4317)),
        ("http://[::1]:4318", ("::1", 4318)),
        ("http://c:port", None),
        ("", None),
    ],
)
def test_host_and_port(url: str, address: tuple[str, int] | None) -> None:
    """Host and port come out of any form of URL; what has none gives none."""
    assert Endpoint("traces", "grpc", url, "").address == address


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "c:4318"}, "=c:4318 has no scheme: write http://c:4318"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "c:4318/v1/traces"}, "has no scheme: write http://c:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://:4318"}, "has no host"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317"}, "use port 4318, or OTEL_EXPORTER_OTLP_PROTOCOL=grpc"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "use port 4317, or OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf",
        ),
    ],
)
def test_mistakes_are_told(environ: dict[str, str], words: str) -> None:
    """A URL that can't work is told with what to write instead."""
    assert words in (Endpoint.read("traces", environ).mistake or "")


@pytest.mark.parametrize("url", ["http://c:4318", "https://c", "http://c:4318/v1/traces"])
def test_a_good_url_is_no_mistake(url: str) -> None:
    """Nothing is said about a URL that can work."""
    assert Endpoint.read("traces", {"OTEL_EXPORTER_OTLP_ENDPOINT": url}).mistake is None


def test_reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that listens is reachable, one that does not is refused; behind a proxy that can't be told."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        endpoint = Endpoint("traces", "grpc", f"http://127.0.0.1:{server.getsockname()[1]}", "")
        assert endpoint.unreachable() is None
    assert endpoint.unreachable() == "connection refused"
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")
    assert endpoint.unreachable() is None


def test_an_unknown_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that does not resolve is told as such."""

    def fail(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket, "create_connection", fail)
    assert Endpoint("traces", "grpc", "http://nowhere:1", "").unreachable() == "unknown host name"


def test_the_server_is_the_url_without_its_path() -> None:
    """Messages about a whole server leave out the path of one signal."""
    assert Endpoint("traces", "http/protobuf", "http://c:1/v1/traces", "").server == "http://c:1"
    assert Endpoint("traces", "grpc", "c:4317", "").server == "c:4317"
