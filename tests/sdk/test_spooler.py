"""What a spooler makes of batches, a sender that fails, and a folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from voicespan import diagnostics
from voicespan.sdk.batch import Refusal
from voicespan.sdk.spool import REFUSED, REPLAYED, Spool
from voicespan.sdk.spooler import Spooler

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from voicespan.sdk.export import BodySender

PLENTY = 1 << 20


class FakeSender:
    """Makes a body of the service names in a batch, and gives the answers in turn."""

    def __init__(self) -> None:
        self.posted: list[list[str]] = []
        self.answers: list[Refusal | None] = []
        self.meanwhile: Callable[[], object] = lambda: None

    def body(self, batch: Sequence[str]) -> bytes:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        request = ExportTraceServiceRequest()
        for name in batch:
            request.resource_spans.add().schema_url = name
        return request.SerializeToString()

    def post(self, body: bytes) -> Refusal | None:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        self.posted.append([each.schema_url for each in ExportTraceServiceRequest.FromString(body).resource_spans])
        self.meanwhile()
        return self.answers.pop(0) if self.answers else None


@pytest.fixture
def sender() -> FakeSender:
    return FakeSender()


@pytest.fixture
def spooler(sender: FakeSender, tmp_path: Path) -> Iterator[Spooler]:
    diagnostics.forget()
    yield Spooler(Spool(tmp_path / "traces", PLENTY), cast("BodySender", sender))
    diagnostics.forget()


def keep(spooler: Spooler, *names: str) -> None:
    spooler.keep(cast("Any", list(names)), len(names), spooler.now_ns())


def replay(spooler: Spooler, go_on: Callable[[], bool] = lambda: True) -> list[tuple[int, Refusal | None]]:
    tried: list[tuple[int, Refusal | None]] = []
    spooler.replay(lambda count, refusal: tried.append((count, refusal)), go_on)
    return tried


def test_what_is_kept_during_a_replay_is_replayed_next(spooler: Spooler, sender: FakeSender) -> None:
    """A batch that another thread keeps while the others are sent is not forgotten until somebody looks again."""
    keep(spooler, "first")

    def meanwhile() -> None:
        if sender.posted == [["first"]]:
            keep(spooler, "second")

    sender.meanwhile = meanwhile
    assert replay(spooler) == [(1, None)]
    assert spooler.waiting()
    assert replay(spooler) == [(1, None)]
    assert sender.posted == [["first"], ["second"]]
    assert not spooler.waiting()


def test_a_replay_that_is_broken_off_goes_on_later(spooler: Spooler, sender: FakeSender) -> None:
    """When there is other work, and when the target refuses for the time being: what is left waits, in its order."""
    for name in ("first", "second", "third"):
        keep(spooler, name)
    assert replay(spooler, lambda: len(sender.posted) < 1) == [(1, None)]
    assert spooler.waiting()
    sender.answers = [Refusal("503", passing=True)]
    assert replay(spooler) == []
    assert spooler.waiting()
    assert replay(spooler) == [(1, None), (1, None)]
    assert [name for (name,) in sender.posted] == ["first", "second", "second", "third"]


def test_what_is_refused_for_good_is_gone_and_no_replay(spooler: Spooler, sender: FakeSender) -> None:
    """The batch is told as refused, removed, and counted as that."""
    keep(spooler, "first", "and more")
    refusal = Refusal("400")
    sender.answers = [refusal]
    assert replay(spooler) == [(2, refusal)]
    assert not spooler.spool.waiting()
    assert (spooler.spool.counts.get(REPLAYED), spooler.spool.counts.get(REFUSED)) == (0, 2)


def test_a_file_that_stays_is_said(
    spooler: Spooler, sender: FakeSender, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A body that was sent and cannot be removed is sent once by this process, and a line says what a restart does."""
    keep(spooler, "first")
    with monkeypatch.context() as patched:
        patched.setattr(spooler.spool, "_remove", lambda path: False)
        assert replay(spooler) == [(1, None)]
        assert replay(spooler) == []
    assert sender.posted == [["first"]]
    assert "cannot be removed" in capsys.readouterr().err
