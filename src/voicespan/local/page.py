"""The page of the viewer: files of this package."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.responses import Response
from starlette.routing import Route

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.requests import Request

STATIC = Path(__file__).parent / "static"

# Said here and not by the system's table of types, which calls JavaScript plain text on some machines.
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class _Asset:
    """One file of the page, in memory."""

    body: bytes
    media_type: str
    tag: str

    async def __call__(self, request: Request) -> Response:
        headers = {"ETag": self.tag, "Cache-Control": "no-cache"}
        if self.tag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        return Response(self.body, headers=headers, media_type=self.media_type)


def routes() -> Iterator[Route]:
    """Yield `/` and one route for each file below it; there is no path that a request could make up."""
    for path in sorted(STATIC.rglob("*")):
        if path.suffix in _MEDIA_TYPES:
            name = path.relative_to(STATIC).as_posix()
            yield Route("/" if name == "index.html" else f"/{name}", asset(path).__call__)


def asset(path: Path) -> _Asset:
    """Return a file of a page as an answer."""
    body = path.read_bytes()
    return _Asset(body, _MEDIA_TYPES[path.suffix], f'"{hashlib.sha256(body).hexdigest()[:16]}"')
