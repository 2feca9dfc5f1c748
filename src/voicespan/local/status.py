"""What the receiver says about itself: what it keeps, what came, and what of that it does not show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool
from starlette.routing import Route

from voicespan.local.access import WITHHELD, is_near
from voicespan.local.api import as_json
from voicespan.local.schema import StoreError
from voicespan.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from starlette.requests import Request
    from starlette.responses import Response

    from voicespan.local.grpc import GrpcDoor
    from voicespan.local.intake import Intake

TRACE_ID = "{trace_id}"
_SIZE = (
    "SELECT (page_count - freelist_count) * page_size FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
)


def checked_trace_link(template: str) -> str:
    """Return the address of a trace elsewhere, in which {trace_id} stands for the id.

    Raises:
        ValueError: it is no such address.

    """
    if not template.startswith(("http://", "https://")) or TRACE_ID not in template or not template.isprintable():
        raise ValueError(f"a trace link is an http or https address with {TRACE_ID} in it, not {template!r}")
    return template


class Status:
    """`GET /api/status`."""

    def __init__(
        self, intake: Intake, grpc: GrpcDoor, *, send: Mapping[str, str], trace_link: str | None = None
    ) -> None:
        self.intake = intake
        self.grpc = grpc
        self.send = send
        """The variables that let a service send here."""
        self.trace_link = trace_link

    def routes(self) -> Iterator[Route]:
        """Yield the route."""
        yield Route("/api/status", self.status)

    async def status(self, request: Request) -> Response:
        """Answer; what the database is asked is asked in a thread."""
        withheld = None if is_near(request) else WITHHELD
        try:
            return as_json(await run_in_threadpool(self.said) | {"content_withheld": withheld})
        except StoreError as error:
            return as_json({"error": str(error)}, 503)

    def said(self) -> dict[str, Any]:
        """Return what there is to say."""
        store, counts = self.intake.store, self.intake.counts
        return {
            "version": __version__,
            "database": str(store.path),
            "in_memory": store.in_memory,
            "turns": store.reader.count(),
            "bytes": store.reader.ask(_SIZE, [])[0][0],
            "retention": {"max_age_s": store.retention.max_age_s, "max_bytes": store.retention.max_bytes},
            "content": self.intake.content,
            "received": {"spans": counts.spans, "logs": counts.logs, "metrics": counts.metrics},
            "not_shown": {
                "metrics": counts.metrics,
                "logs_without_trace": counts.logs_without_trace,
                "content": counts.content,
            },
            "rejected": counts.rejected,
            "refused": counts.refused,
            "grpc": {"endpoint": self.grpc.endpoint, "say": self.grpc.say},
            "send": dict(self.send),
            "trace_link": self.trace_link,
            "others": store.others(),
        }
