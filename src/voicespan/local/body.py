"""Reading the body of a request: within limits, decompressed, and never more in memory than the limits allow."""

from __future__ import annotations

import asyncio
import zlib
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

_DRAIN_S = 1.0
_PART_BYTES = 1 << 20
_WINDOW_BITS = {"gzip": 31, "deflate": 15}


@dataclass(frozen=True, slots=True)
class Limits:
    """How large a request may be, as it is sent and after decompression, and how long it may take to arrive."""

    sent_bytes: int = 16 << 20
    body_bytes: int = 32 << 20
    seconds: float = 30.0


class RefusedError(Exception):
    """The request is refused with this HTTP status; the message is the reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


async def read_body(request: Request, limits: Limits) -> bytes:
    """Return the decompressed body.

    Raises:
        RefusedError: as for `parts`.

    """
    return b"".join([part async for part in parts(request, limits)])


async def parts(request: Request, limits: Limits) -> AsyncIterator[bytes]:
    """Yield the decompressed body in parts, as it comes.

    Raises:
        RefusedError: 413 too large, 415 an unknown content encoding, 400 compressed data that is damaged, 408 too slow.

    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding != "identity" and encoding not in _WINDOW_BITS:
        raise RefusedError(415, f"content encoding {encoding!r} is not identity, gzip or deflate")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limits.sent_bytes:
        raise _too_large(limits.sent_bytes)
    chunks = _bounded(request.stream(), limits.sent_bytes)
    if encoding != "identity":
        chunks = _decompressed(chunks, _WINDOW_BITS[encoding], limits.body_bytes)
    try:
        async with asyncio.timeout(limits.seconds):
            async for chunk in chunks:
                yield chunk
    except TimeoutError:
        raise RefusedError(408, f"the request did not arrive within {limits.seconds:g} s") from None
    except zlib.error as error:
        raise RefusedError(400, f"the body is not valid {encoding}: {error}") from None


async def drain(request: Request, limits: Limits) -> None:
    """Read on for a moment what is left of a refused request: a sender in full flow would not see the answer."""
    # RuntimeError: it was read to its end already.
    with suppress(TimeoutError, ClientDisconnect, RefusedError, RuntimeError):
        async with asyncio.timeout(_DRAIN_S):
            async for _ in _bounded(request.stream(), limits.sent_bytes):
                pass


async def _bounded(chunks: AsyncIterator[bytes], limit: int) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        yield chunk


async def _decompressed(chunks: AsyncIterator[bytes], window_bits: int, limit: int) -> AsyncIterator[bytes]:
    size = 0
    stream = zlib.decompressobj(window_bits)
    async for chunk in chunks:
        data = chunk
        while data:
            if stream.eof:  # gzip allows several members after each other
                stream = zlib.decompressobj(window_bits)
            part = stream.decompress(data, _PART_BYTES)
            size += len(part)
            if size > limit:
                raise RefusedError(413, f"the body is larger than {limit} bytes after decompression")
            yield part
            data = stream.unused_data if stream.eof else stream.unconsumed_tail
    if not stream.eof:
        raise zlib.error("it ends too early")


def _too_large(limit: int) -> RefusedError:
    return RefusedError(413, f"the request is larger than {limit} bytes")
