"""For how long a target over gRPC asks to be left alone: `google.rpc.RetryInfo`, which is there what `Retry-After` is.

The exporter reads it from a header of its own (`google.rpc.retryinfo-bin`). Most servers send it as the details of the
status (`grpc-status-details-bin`), as gRPC's richer error model has it; both are read here.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

_DETAILS = "grpc-status-details-bin"
_PLAIN = "google.rpc.retryinfo-bin"


class Asked:
    """What the last answer has asked for."""

    retry_after_s = 0.0


def heed(exporter: Any) -> Asked | None:
    """Have an exporter over gRPC note what its target asks for; return None for another kind of exporter."""
    make, client = getattr(exporter, "_stub", None), getattr(exporter, "_client", None)
    if make is None or not hasattr(client, "Export"):
        return None
    asked = Asked()
    exporter._stub = lambda channel: _heeded(make(channel), asked)  # noqa: SLF001 - it connects anew by itself
    exporter._client = _heeded(client, asked)  # noqa: SLF001
    return asked


def _heeded(stub: Any, asked: Asked) -> Any:
    export = stub.Export

    def call(*args: Any, **kwargs: Any) -> Any:
        asked.retry_after_s = 0.0
        try:
            return export(*args, **kwargs)
        except Exception as error:
            with suppress(Exception):  # an error without metadata, or somebody's own form of it
                asked.retry_after_s = _seconds(error.trailing_metadata())  # type: ignore[attr-defined]
            raise

    stub.Export = call
    return stub


def _seconds(metadata: Iterable[tuple[str, Any]]) -> float:
    from google.rpc.error_details_pb2 import RetryInfo
    from google.rpc.status_pb2 import Status

    found = dict(metadata)
    info = RetryInfo()
    if _PLAIN in found:
        info.ParseFromString(found[_PLAIN])
    elif _DETAILS in found:
        for detail in Status.FromString(found[_DETAILS]).details:
            if detail.Is(RetryInfo.DESCRIPTOR):
                detail.Unpack(info)
    return max(0.0, float(info.retry_delay.seconds + info.retry_delay.nanos / 1e9))
