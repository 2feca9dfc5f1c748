from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

import pytest

from voicespan import diagnostics, settings
from voicespan.sdk.batch import (
    DROPPED,
    FAILED,
    IN_A_ROW,
    KEPT,
    LATE,
    LONGEST_REST_S,
    REPLAYED,
    RETRY_S,
    SENT,
    Batcher,
    Limits,
    Refusal,
    Weight,
)
from voicespan.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

SOON = Limits(queue=100, batch=4, delay_s=0.01)
LATER = Limits(queue=100, batch=4, delay_s=3600)


class FakeSender:
    """Keeps the batches; `refusal` is why it fails, `gate` holds it up."""

    target = "nowhere"

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.refusal: Refusal | Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.hurried = self.closed = False

    def send(self, batch: Sequence[int]) -> Refusal | None:
        self.gate.wait(20)
        self.batches.append(list(batch))
        if isinstance(self.refusal, Exception):
            raise self.refusal
        return self.refusal

    def hurry(self) -> None:
        self.hurried = True

    def close(self) -> None:
        self.closed = True

    @property
    def items(self) -> list[int]:
        return [item for batch in self.batches for item in batch]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Nothing has been said or counted, and the settings are the defaults."""
    settings.reset(Settings())
    diagnostics.forget()
    yield
    settings.reset()
    diagnostics.forget()


@pytest.fixture
def sender() -> FakeSender:
    """A sender that takes everything."""
    return FakeSender()


def until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.002)
    return condition()


def put(batcher: Batcher[int], items: range) -> None:
    for item in items:
        batcher.put(item)


def test_a_batch_is_sent_when_it_is_full(sender: FakeSender) -> None:
    """Nobody waits for the delay once a batch is full, and no batch is larger than the limit."""
    batcher = Batcher(sender, LATER, "span")
    put(batcher, range(8))
    assert until(lambda: len(sender.items) == 8)
    assert sender.items == list(range(8))
    assert max(len(batch) for batch in sender.batches) <= 4


def test_a_batch_is_sent_after_the_delay(sender: FakeSender) -> None:
    """What does not fill a batch goes out all the same."""
    batcher = Batcher(sender, SOON, "span")
    put(batcher, range(2))
    assert until(lambda: sender.items == [0, 1])
    put(batcher, range(2, 3))
    assert until(lambda: sender.items == [0, 1, 2])


def test_a_full_queue_drops_the_oldest(sender: FakeSender, capsys: pytest.CaptureFixture[str]) -> None:
    """When the target hangs, the queue keeps its newest items, and how many were dropped is counted and said."""
    sender.gate.clear()
    batcher = Batcher(sender, Limits(queue=10, batch=4, delay_s=0.001), "span")
    put(batcher, range(1))
    assert until(lambda: batcher._in_flight == 1)
    put(batcher, range(1, 31))
    assert batcher.unsent == 11
    assert batcher.counts.get(DROPPED) == diagnostics.counters.get("span.dropped") == 20
    sender.gate.set()
    assert until(lambda: batcher.unsent == 0)
    assert sender.items == [0, *range(21, 31)]
    batcher.close()
    batcher.wait(10)
    assert "20 spans dropped, as the queue of 10 to nowhere is full" in capsys.readouterr().err


def test_the_caller_never_waits(sender: FakeSender) -> None:
    """Putting items takes no part in a sender that hangs."""
    sender.gate.clear()
    batcher = Batcher(sender, Limits(queue=10, batch=4, delay_s=0.001), "span")
    putting = threading.Thread(target=put, args=(batcher, range(1000)))
    putting.start()
    putting.join(20)
    assert not putting.is_alive()
    sender.gate.set()
    batcher.close()
    batcher.wait(20)


@pytest.mark.parametrize(("refusal", "words"), [(Refusal("401"), "401"), (ValueError("no"), "ValueError('no')")])
def test_a_failure_is_counted_and_said(
    sender: FakeSender, refusal: Refusal | Exception, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A batch that is refused for good, or makes the sender raise, is counted and said; the next one is tried."""
    sender.refusal = refusal
    batcher = Batcher(sender, SOON, "span")
    put(batcher, range(2))
    assert until(lambda: batcher.counts.get(FAILED) == 2)
    assert until(lambda: bool(diagnostics._said))
    sender.refusal = None
    put(batcher, range(2, 3))
    assert until(lambda: batcher.counts.get(SENT) == 1)
    assert batcher.flush(20)
    assert capsys.readouterr().err == (
        f"voicespan: 2 spans could not be sent to nowhere ({words})\n"
        "voicespan: nowhere takes spans again; lost meanwhile: 2\n"
    )


def test_what_is_refused_for_the_time_being_is_kept(sender: FakeSender, capsys: pytest.CaptureFixture[str]) -> None:
    """While the target is away nothing is lost that the queue can hold, and the order stays."""
    sender.refusal = Refusal("connection refused", passing=True)
    batcher = Batcher(sender, SOON, "span")
    put(batcher, range(10))
    assert until(lambda: batcher.reason != "")
    sender.refusal = None
    sender.batches.clear()
    put(batcher, range(10, 12))
    assert until(lambda: batcher.flush(20))
    assert sender.items == list(range(12))
    assert batcher.counts.snapshot() == {SENT: 12}
    assert capsys.readouterr().err == (
        "voicespan: nowhere takes no spans (connection refused): up to 100 are kept until it does\n"
        "voicespan: nowhere takes spans again; lost meanwhile: 0\n"
    )


def test_a_target_that_refuses_is_not_hammered(sender: FakeSender) -> None:
    """However many items come, a target that refuses is left alone for a while between attempts."""
    sender.refusal = Refusal("connection refused", passing=True)
    batcher = Batcher(sender, Limits(queue=50, batch=4, delay_s=0.001), "span")
    began = time.monotonic()
    for _ in range(20):
        put(batcher, range(40))
        time.sleep(0.005)
    assert len(sender.batches) <= 2 + (time.monotonic() - began) / RETRY_S
    batcher.close()
    batcher.wait(20)


@pytest.mark.parametrize("count", [4, 1])
def test_a_target_that_refuses_for_good_is_not_asked_for_every_batch(sender: FakeSender, count: int) -> None:
    """After three refusals in a row it gets its rest, also where more than a batch waits."""
    sender.refusal = Refusal("401")
    batcher = Batcher(sender, Limits(queue=1000, batch=count, delay_s=0.001), "span")
    began = time.monotonic()
    for _ in range(20):
        put(batcher, range(40))
        time.sleep(0.005)
    asked, took_s = len(sender.batches), time.monotonic() - began
    assert asked <= IN_A_ROW + 1 + took_s / RETRY_S
    batcher.close()
    batcher.wait(20)


def test_one_batch_that_is_refused_for_good_stops_nothing(sender: FakeSender) -> None:
    """What is wrong with one batch is not held against the next ones."""
    sender.gate.clear()
    batcher = Batcher(sender, LATER, "span")
    sender.refusal = Refusal("400")
    put(batcher, range(40))
    assert until(lambda: batcher._in_flight == 4)
    sender.gate.set()
    assert until(lambda: batcher.counts.get(FAILED) >= 4)
    sender.refusal = None
    assert until(lambda: batcher.counts.get(SENT) + batcher.counts.get(FAILED) == 40)


def test_a_target_is_left_alone_for_as_long_as_it_asks(sender: FakeSender) -> None:
    """Within bounds; a flush asks all the same."""
    sender.refusal = Refusal("429", passing=True, after_s=3600)
    batcher = Batcher(sender, SOON, "span")
    put(batcher, range(4))
    assert until(lambda: len(sender.batches) == 1)
    put(batcher, range(4, 8))
    assert until(lambda: batcher.reason == "429")
    assert batcher._rest_s == LONGEST_REST_S
    assert not batcher.flush(20)
    assert len(sender.batches) == 2
    batcher.close()
    batcher.wait(20)


def test_what_is_queued_is_bounded_in_bytes(sender: FakeSender) -> None:
    """Items of a known size are dropped, oldest first, when they are too much; what comes back counts again."""
    sender.gate.clear()
    limits = Limits(queue=1000, batch=1, delay_s=0.001, memory=100)
    batcher = Batcher(sender, limits, "span", lambda item: Weight(2, item))
    batcher.put(60)
    assert until(lambda: batcher._in_flight == 2)
    for size in (30, 30, 30, 30):
        batcher.put(size)
    assert batcher.counts.get(DROPPED) == 2
    sender.refusal = Refusal("503", passing=True)
    sender.gate.set()
    assert until(lambda: batcher.counts.get(DROPPED) == 4)
    assert sum(batcher._queue) == batcher._more.size == 90
    batcher.close()
    batcher.wait(20)


class FakeKeeper:
    """Has one batch on disk, which can be sent when `there` says so."""

    place = "somewhere"

    def __init__(self) -> None:
        self.there = False
        self.replays = 0

    def now_ns(self) -> int:
        return 0

    def keep(self, batch: Sequence[int], count: int, taken_ns: int) -> None:
        pass

    def waiting(self) -> bool:
        return True

    def replay(self, tried: Callable[[int, Refusal | None], None], go_on: Callable[[], bool]) -> Refusal | None:
        self.replays += 1
        if self.there:
            tried(5, None)
        return None


def test_taken_again_is_said_when_something_was_taken(sender: FakeSender, capsys: pytest.CaptureFixture[str]) -> None:
    """A replay that finds nothing, as another process is at it, says nothing of the target; one that sends does."""
    sender.refusal = Refusal("connection refused", passing=True)
    keeper = FakeKeeper()
    batcher = Batcher(sender, SOON, "span", keeper=keeper)
    put(batcher, range(2))
    assert until(lambda: batcher.counts.get(KEPT) == 2)
    before = keeper.replays
    assert until(lambda: keeper.replays > before + 1)
    assert "takes spans again" not in capsys.readouterr().err
    keeper.there = True
    assert until(lambda: batcher.counts.get(REPLAYED) >= 5)
    assert until(lambda: not batcher._refused)
    assert "nowhere takes spans again; lost meanwhile: 0" in capsys.readouterr().err
    batcher.close()
    batcher.wait(20)


def test_flush_sends_everything(sender: FakeSender) -> None:
    """After a flush nothing waits, whatever the delay is."""
    batcher = Batcher(sender, LATER, "span")
    put(batcher, range(11))
    assert batcher.flush(20)
    assert sorted(sender.items) == list(range(11))
    assert batcher.flush(20)


def test_flush_keeps_its_time_out(sender: FakeSender) -> None:
    """A flush returns False when its time is over, although the target hangs."""
    sender.gate.clear()
    batcher = Batcher(sender, LATER, "span")
    put(batcher, range(1))
    assert batcher.flush(0.05) is False
    sender.gate.set()


def test_flush_tells_of_a_failure(sender: FakeSender) -> None:
    """A flush returns False when what was queued could not be sent."""
    sender.refusal = Refusal("connection refused", passing=True)
    batcher = Batcher(sender, LATER, "span")
    put(batcher, range(1))
    assert batcher.flush(20) is False


def test_close_sends_what_is_left(sender: FakeSender) -> None:
    """The end sends what is queued and takes nothing any more; late items are counted."""
    batcher = Batcher(sender, LATER, "span")
    put(batcher, range(10))
    batcher.close()
    assert batcher.wait(20)
    batcher.put(99)
    assert sorted(sender.items) == list(range(10))
    assert (batcher.counts.get(LATE), batcher.unsent) == (1, 0)
    heavy = Batcher(sender, LATER, "span", lambda _: Weight(12, 4_000))
    heavy.close()
    heavy.put(1)
    assert heavy.counts.get(LATE) == 12
    assert sender.hurried
    assert sender.closed


def test_close_gives_up_when_its_time_is_over(sender: FakeSender) -> None:
    """A target that hangs does not hold up the end; what is left is known."""
    sender.gate.clear()
    batcher = Batcher(sender, LATER, "span")
    put(batcher, range(6))
    batcher.close()
    assert batcher.wait(0.05) is False
    assert (batcher.unsent, batcher.reason) == (6, "no answer in time")
    assert sender.closed
    sender.gate.set()


@pytest.mark.parametrize("passing", [True, False])
def test_close_tries_a_failing_target_once(sender: FakeSender, passing: bool) -> None:
    """At the end a failing target is not tried again for every batch, and all that is left counts as unsent."""
    sender.refusal = Refusal("connection refused", passing)
    batcher = Batcher(sender, LATER, "span")
    put(batcher, range(3))
    batcher.close()
    put(batcher, range(3, 4))
    assert batcher.wait(20) is False
    assert len(sender.batches) == 1
    assert (batcher.unsent, batcher.reason) == (3, "connection refused")


def test_an_unused_queue_ends_at_once(sender: FakeSender) -> None:
    """Without an item there is no thread, and nothing to wait for."""
    batcher = Batcher(sender, LATER, "span")
    assert batcher.flush(0)
    batcher.close()
    assert batcher.wait(0)


def test_without_a_thread_the_end_sends(sender: FakeSender, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be started, as at the end of an interpreter, the end itself sends what is queued."""

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    batcher = Batcher(sender, LATER, "span")
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        put(batcher, range(6))
    batcher.close()
    assert batcher.wait(20)
    assert sender.items == list(range(6))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_child_begins_empty_and_sends_its_own(sender: FakeSender) -> None:
    """The child of a fork sends neither what its parent queued nor twice, and counts from zero."""
    batcher = Batcher(sender, LATER, "span")
    put(batcher, range(2))
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        sender.batches.clear()
        batcher.put(77)
        sent = batcher.flush(20)
        os.write(write, repr((sent, sender.items, batcher.counts.snapshot())).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 200) == b"(True, [77], {'sent': 1})"
    assert batcher.flush(20)
    assert sender.items == [0, 1]
    os.close(read)
    os.close(write)


def test_limits_come_from_the_standard_variables() -> None:
    """OTEL_BSP_* sets the limits; a batch is never larger than the queue."""
    environ = {"OTEL_BSP_MAX_QUEUE_SIZE": "32", "OTEL_BSP_SCHEDULE_DELAY": "500"}
    assert Limits.read(environ, "OTEL_BSP") == Limits(queue=32, batch=32, delay_s=0.5)
    assert Limits.read({}, "OTEL_BSP") == Limits(queue=2048, batch=64, delay_s=0.2)


@pytest.mark.parametrize("text", ["0", "-1", "many", "1.5"])
def test_a_bad_limit_is_said(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A limit that is no whole number above zero is said, and the default is used."""
    assert Limits.read({"OTEL_BSP_MAX_QUEUE_SIZE": text}, "OTEL_BSP") == Limits()
    assert capsys.readouterr().err == (
        f"voicespan: OTEL_BSP_MAX_QUEUE_SIZE={text!r} is not a whole number above 0: using 2048\n"
    )
