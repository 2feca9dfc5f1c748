"""A bounded queue and the thread that sends what was queued, in small batches. The caller never waits."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections import deque
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

from voicespan.diagnostics import LOCK_TIMEOUT_S, Counters, counters, number, say
from voicespan.sdk.latch import Latch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Item = TypeVar("Item")
Item_contra = TypeVar("Item_contra", contravariant=True)

DROPPED = "dropped"
FAILED = "failed"
KEPT = "kept"
LATE = "after_shutdown"
REPLAYED = "replayed"
SENT = "sent"

RETRY_S = 1.0
"""How long a target that refuses is left alone, after the attempts that the exporter makes by itself."""

LONGEST_REST_S = 300.0
"""A target that asks to be left alone for longer is asked again all the same."""

IN_A_ROW = 3
"""After so many batches that were refused for good, the next one is no exception: the target gets its rest."""

NO_ANSWER = "no answer in time"
CLOSED = "connection closed by the peer"
UNCERTAIN = frozenset({NO_ANSWER, CLOSED})
"""After these nobody knows whether the batch was taken: kept and sent again, it may be there twice."""

_KEEPING_SHARE = 0.25
"""What is left of the time for the end, to write down what was not sent."""

_NO_THREAD = "no thread could be started"


class Limits(NamedTuple):
    """`queue`: how many may wait; `batch`: how many go into one request; `delay_s`: how long it waits to be full.

    `size`: a request of so many bytes is full too, as far as the size of what it takes is known. `memory`: so many
    bytes of what waits are one too many, as far as that is known.
    """

    queue: int = 2048
    batch: int = 64
    delay_s: float = 0.2
    size: int = 1 << 20
    memory: int = 1 << 26

    @classmethod
    def read(cls, environ: Mapping[str, str], prefix: str, *, batch: int = 64) -> Limits:
        """Read `OTEL_BSP_*` or `OTEL_BLRP_*`, as `prefix` says; what is no number is said and ignored.

        `batch` is the size of a batch where the environment sets none.
        """
        standard = cls(batch=batch)
        queue = _positive(environ, f"{prefix}_MAX_QUEUE_SIZE", standard.queue)
        batch = _positive(environ, f"{prefix}_MAX_EXPORT_BATCH_SIZE", standard.batch)
        delay_ms = _positive(environ, f"{prefix}_SCHEDULE_DELAY", round(standard.delay_s * 1000))
        return cls(queue, min(batch, queue), delay_ms / 1000)


def _positive(environ: Mapping[str, str], name: str, default: int) -> int:
    text = environ.get(name, "").strip()
    if not text:
        return default
    if text.isdecimal() and int(text) > 0:
        return int(text)
    say(f"settings: {name}", f"{name}={text!r} is not a whole number above 0: using {default}")
    return default


class Refusal(NamedTuple):
    """Why a batch was not sent, and whether the same batch may be taken later."""

    reason: str
    passing: bool = False
    after_s: float = 0.0
    """For how long the target has asked to be left alone."""


class Weight:
    """How many one item stands for, and its size in bytes, 0 where that is not known."""

    __slots__ = ("count", "size")

    def __init__(self, count: int, size: int) -> None:
        self.count = count
        self.size = size


_ONE = Weight(1, 0)


class _More:
    """By how much what is queued is more than its items, and its size in bytes; safe to use from any thread."""

    def __init__(self) -> None:
        self.count = self.size = 0
        self._lock = threading.Lock()

    def add(self, count: int, size: int) -> None:
        """Add to both; nothing is to be done for items that are one each, and of no known size."""
        if not count and not size:
            return
        # As in diagnostics.Counters, and quicker where nobody else is about to.
        locked = self._lock.acquire(blocking=False) or self._lock.acquire(timeout=LOCK_TIMEOUT_S)
        try:
            self.count += count
            self.size += size
        finally:
            if locked:
                self._lock.release()


class Sender(Protocol[Item_contra]):
    """Sends one batch at a time, always from the same thread."""

    target: str

    def send(self, batch: Sequence[Item_contra]) -> Refusal | None:
        """Send the batch; return None, or why it was not sent. May raise."""

    def hurry(self) -> None:
        """Spend no time on attempts that are hopeless: the process ends."""

    def close(self) -> None:
        """Abort what can be aborted; nothing is sent any more."""


class Keeper(Protocol[Item_contra]):
    """Keeps on disk what cannot be sent now. `keep` is called from any thread of ours, the rest from the sender's."""

    place: str

    def now_ns(self) -> int:
        """Return a time of day that does not go back."""

    def keep(self, batch: Sequence[Item_contra], count: int, taken_ns: int) -> None:
        """Write a batch that was taken for sending at this time down; raises OSError where that fails."""

    def waiting(self) -> bool:
        """Return whether something may be there. Costs next to nothing."""

    def replay(self, tried: Callable[[int, Refusal | None], None], go_on: Callable[[], bool]) -> Refusal | None:
        """Send what is there, the oldest first, as long as `go_on` says so.

        What was taken, or refused for good, is gone, and `tried` is told of how many that were. Returns None, or why
        nothing is taken now.
        """


class Batcher(Generic[Item]):
    """Takes items from any thread and hands them to a sender.

    What the sender refuses for the time being is kept and sent later: by a keeper, and without one in the queue, where
    the oldest are dropped when it is full. What is dropped or refused for good is counted and said.

    Nothing that is called from outside blocks (but `flush` and `wait`, for the time they are given) or raises.
    The child of a fork begins empty; its thread is started with the first item.
    """

    def __init__(
        self,
        sender: Sender[Item],
        limits: Limits,
        what: str,
        weigh: Callable[[Item], Weight] = lambda _: _ONE,
        keeper: Keeper[Item] | None = None,
    ) -> None:
        """Queue items for the sender; `what` is the noun for what is counted, and `weigh` says how many an item is."""
        self._keeper = keeper
        self.what = what
        self._weigh = weigh
        self._sender = sender
        self._limits = limits
        self._begin()
        if hasattr(os, "register_at_fork"):
            in_child = weakref.WeakMethod(self._begin_in_child)
            os.register_at_fork(after_in_child=lambda: (method := in_child()) and method())
        if keeper is not None and keeper.waiting():  # of a process before this one
            self._start()

    def _begin(self) -> None:
        self.counts = Counters()
        self.reason = ""
        self._queue: deque[Item] = deque()
        self._more = _More()
        self._flushes: deque[_Flush] = deque()
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._finished = Latch()
        self._start_lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._overflow: SimpleQueue[None] = SimpleQueue()
        self._overflowing = False
        self._on_its_way: list[list[Item]] = []
        """The batch that is being sent; whoever takes it out has to see to it."""
        self._asleep = self._full = self._closing = self._gave_up = self._away = False
        self._in_flight = 0
        self._reported = {DROPPED: 0, FAILED: 0}
        self._refused = False
        self._refused_in_a_row = 0
        self._rest_s = RETRY_S
        self._lost_before = 0
        self._failed_before_close = self._kept_before_close = 0

    def _begin_in_child(self) -> None:
        worked = self._thread is not None
        self._begin()
        if worked:  # not with the first item: at the end of the child no thread can be started any more
            self._start()

    @property
    def target(self) -> str:
        """Where the items go, as a person would name it."""
        return self._sender.target

    def put(self, item: Item) -> None:
        """Queue one item."""
        weight = self._weigh(item)
        if self._closing:
            self._count(LATE, weight.count)
            return
        self._queue.append(item)
        self._more.add(weight.count - 1, weight.size)
        if self._thread is None:
            self._start()
        length = self._length
        if self._keeper is not None and not self._overflowing and length > self._high:
            self._overflowing = True
            self._overflow.put(None)
        if length > self._limits.queue or self._more.size > self._limits.memory:
            self._drop_oldest()
        elif self._asleep:
            self._asleep = False
            self._wake.put(None)
        elif length >= self._limits.batch and not self._full:
            self._full = True
            self._wake.put(None)

    def flush(self, timeout_s: float) -> bool:
        """Send what is queued now; return whether all of it was sent within `timeout_s` seconds."""
        if self._closing or (self._thread is None and not self._queue):
            return not self._queue
        flush = _Flush()
        self._flushes.append(flush)
        self._start()
        self._wake.put(None)
        return flush.done.wait(timeout_s) and flush.sent

    def close(self) -> None:
        """Take no more items and send what is queued; do not wait for it."""
        if self._closing:
            return
        self._failed_before_close, self._kept_before_close = self.counts.get(FAILED), self.counts.get(KEPT)
        self._closing = True
        self._sender.hurry()
        self._wake.put(None)

    def wait(self, timeout_s: float) -> bool:
        """After `close`: wait until all was tried, then give up; return whether all was sent, or is kept."""
        if self._thread is None:  # never used, or no thread could be started (at exit none can)
            self._drain(everything=True)
        elif not self._finished.wait(timeout_s if self._keeper is None else timeout_s * (1 - _KEEPING_SHARE)):
            self.reason = self.reason or NO_ANSWER
            self._gave_up = True
            self._keep_what_is_on_its_way()
        self._overflow.put(None)
        self._keep_all()
        self._sender.close()
        return self.unsent == 0

    @property
    def kept_at_end(self) -> int:
        """Items that were kept on disk since `close`."""
        return self.counts.get(KEPT) - self._kept_before_close if self._closing else 0

    @property
    def place(self) -> str:
        """Where what cannot be sent is kept, empty where it is not."""
        return self._keeper.place if self._keeper is not None else ""

    @property
    def _length(self) -> int:
        return len(self._queue) + self._more.count

    @property
    def used(self) -> bool:
        """Whether there ever was an item."""
        counted = self.counts.snapshot()
        counted.pop(REPLAYED, None)  # of a process before this one
        return bool(self._queue or self._in_flight or counted)

    @property
    def unsent(self) -> int:
        """Items that are queued or on their way, or could not be sent after `close`."""
        failed = self.counts.get(FAILED) - self._failed_before_close if self._closing else 0
        return self._length + self._in_flight + failed

    def _start(self) -> None:
        with self._start_lock:
            if self._thread is not None:
                return
            thread = threading.Thread(target=self._work, name=f"voicespan-{self.what}", daemon=True)
            try:
                thread.start()
            except RuntimeError:
                self.reason = _NO_THREAD
            else:
                self._thread = thread
            if self._keeper is not None and self._thread is not None:
                with suppress(RuntimeError):  # then a full queue drops, as it does without a keeper
                    overflow = f"voicespan-{self.what}-overflow"
                    threading.Thread(target=self._keep_overflow, name=overflow, daemon=True).start()

    def _work(self) -> None:
        _suppress_instrumentation()
        ended = False
        while not ended:
            try:
                ended = self._turn()
            except Exception as error:  # the thread must outlive whatever happens to one batch
                say(f"export.{self.what}.worker", f"exporting {self.what}s went wrong: {error!r}")
                ended = self._closing
        self._finished.open()

    def _turn(self) -> bool:
        """Wait for items, then send them; return whether these were the last."""
        self._asleep = True
        if not (self._queue or self._closing or self._flushes):
            with suppress(Empty):
                self._wake.get(timeout=RETRY_S if self._keeps() else None)
        self._asleep = False
        self._fill()
        closing = self._closing
        flushes = [self._flushes.popleft() for _ in range(len(self._flushes))]
        self._away = False
        sent = self._drain(everything=closing or bool(flushes))
        for flush in flushes:
            flush.sent = sent
            flush.done.open()
        if closing:
            return True
        self._report()
        if self._away:
            self._keep_all()
        elif sent:
            sent = self._replay()
        if not sent:
            self._pause()
        return False

    def _pause(self) -> None:
        """Give a target that refuses some time, unless a flush or the end comes first."""
        until_s = time.monotonic() + self._rest_s
        while not (self._closing or self._flushes) and (left_s := until_s - time.monotonic()) > 0:
            with suppress(Empty):
                self._wake.get(timeout=left_s)

    def _fill(self) -> None:
        self._full = False
        if self._length >= self._limits.batch or self._closing or self._flushes:
            return
        with suppress(Empty):
            self._wake.get(timeout=self._limits.delay_s)

    def _drain(self, *, everything: bool) -> bool:
        """Send one batch and further full ones, or `everything` that is queued now; return whether all were sent."""
        left = len(self._queue) if everything else 1
        all_sent = True
        while self._queue and not self._gave_up and (left > 0 or self._length >= self._limits.batch):
            batch = self._take()
            left -= len(batch)
            refusal = self._send(batch)
            all_sent = all_sent and refusal is None
            if refusal is not None and (self._closing or refusal.passing):
                return False  # the next batch would be told the same
            if self._refused_in_a_row >= IN_A_ROW:
                return False
            if self._closing:
                left = len(self._queue)
        return all_sent

    def _take(self) -> list[Item]:
        batch: list[Item] = []
        count = size = 0
        with suppress(IndexError):  # the queue is short, or a caller has just dropped the oldest
            while count < self._limits.batch and size < self._limits.size:
                if batch and count + self._weigh(self._queue[0]).count > self._limits.batch:
                    break
                item = self._queue.popleft()
                weight = self._out(item)
                batch.append(item)
                count, size = count + weight.count, size + weight.size
        return batch

    def _out(self, item: Item) -> Weight:
        """Take note that an item has left the queue, at once; return how much that was."""
        weight = self._weigh(item)
        self._more.add(1 - weight.count, -weight.size)
        return weight

    def _back(self, batch: list[Item], count: int) -> None:
        """Put a batch before what is queued."""
        self._queue.extendleft(reversed(batch))
        self._more.add(count - len(batch), sum(self._weigh(item).size for item in batch))

    def _send(self, batch: list[Item]) -> Refusal | None:
        taken_ns = self._keeper.now_ns() if self._keeper is not None else 0
        self._in_flight = count = self._weight(batch)
        self._on_its_way.append(batch)
        try:
            refusal = self._sender.send(batch)
        except Exception as error:
            refusal = Refusal(repr(error))
        try:
            self._on_its_way.pop()
        except IndexError:  # the end did not wait, and has kept it
            return refusal
        self._away = refusal is not None and refusal.passing
        if refusal is None:
            self._count(SENT, count)
            self._taken()
        elif self._gave_up:  # what is in flight counts as unsent already, and that may be said just now
            return refusal
        else:
            self._not_taken(batch, count, refusal, taken_ns)
        self._in_flight = 0
        return refusal

    def _weight(self, batch: Sequence[Item]) -> int:
        return sum(self._weigh(item).count for item in batch)

    def _taken(self) -> None:
        self._refused_in_a_row = 0
        if self._refused:
            lost = self.counts.get(DROPPED) + self.counts.get(FAILED) - self._lost_before
            self._refused, self.reason = False, ""
            say(f"export.{self.what}.taken", f"{self.target} takes {self.what}s again; lost meanwhile: {lost}")

    def _not_taken(self, batch: list[Item], count: int, refusal: Refusal, taken_ns: int) -> None:
        self._rest(refusal)
        if not self._refused:
            self._refused, self._lost_before = True, self.counts.get(DROPPED) + self.counts.get(FAILED)
        if not refusal.passing:
            self._refused_in_a_row += 1
            self._count(FAILED, count)
            return
        if self._keep(batch, count, taken_ns):
            if refusal.reason in UNCERTAIN:
                counters.add(f"{self.what}.maybe_twice", count)
            self._say_refused(f"they are kept in {self.place} until it does")
            return
        self._back(batch, count)
        self._drop_oldest()
        self._say_refused(f"up to {self._limits.queue} are kept until it does")

    def _rest(self, refusal: Refusal) -> None:
        """Take note of why nothing is taken, and for how long."""
        self.reason = refusal.reason
        self._rest_s = max(RETRY_S, min(refusal.after_s, LONGEST_REST_S))

    def _say_refused(self, what_then: str) -> None:
        if not self._closing:
            say(f"export.{self.what}.refused", f"{self.target} takes no {self.what}s ({self.reason}): {what_then}")

    # What is kept on disk

    @property
    def _high(self) -> int:
        """Above so many the queue overflows: the sender is held up, or cannot keep up."""
        return self._limits.queue * 3 // 4

    def _keep(self, batch: list[Item], count: int, taken_ns: int) -> bool:
        """Keep a batch on disk; return whether that is done with it, also where it cannot be encoded."""
        if self._keeper is None or not batch:
            return False
        try:
            self._keeper.keep(batch, count, taken_ns)
        except OSError as error:
            why = f"{error.strerror or error}"
            say(f"export.{self.what}.keep", f"{self.what}s cannot be kept in {self.place} ({why})")
            counters.add(f"{self.what}.not_kept", count)
            return False
        except Exception as error:
            say(f"export.{self.what}.keep", f"{self.what}s cannot be kept: {error!r}")
            self._count(FAILED, count)
            return True
        self._count(KEPT, count)
        return True

    def _keep_all(self) -> None:
        """Keep everything that is queued, if there is a keeper that can."""
        while self._queue and self._keep_next():
            pass

    def _keep_next(self) -> bool:
        if self._keeper is None:
            return False
        batch, taken_ns = self._take(), self._keeper.now_ns()
        count = self._weight(batch)
        if self._keep(batch, count, taken_ns):
            return True
        self._back(batch, count)
        return False

    def _keep_what_is_on_its_way(self) -> None:
        """At the end: keep the batch that was sent and not answered. It may be there twice then, but not lost."""
        if self._keeper is None:
            return
        try:
            batch = self._on_its_way.pop()
        except IndexError:
            return
        count = self._weight(batch)
        if self._keep(batch, count, self._keeper.now_ns()):
            counters.add(f"{self.what}.maybe_twice", count)
            self._in_flight = 0

    def _keep_overflow(self) -> None:
        """Keep the oldest of a queue that overflows, from a thread of its own, as the sender may be held up."""
        while True:
            self._overflow.get()
            if self._closing:
                return
            while self._length > self._limits.queue // 2 and self._keep_next():
                pass
            self._overflowing = False

    def _keeps(self) -> bool:
        return self._keeper is not None and self._keeper.waiting()

    def _replay(self) -> bool:
        """Send what is kept on disk while there is nothing else to do; return False where it is not taken now."""
        if self._keeper is None or not self._keeper.waiting():
            return True
        before = self.counts.get(REPLAYED)
        refusal = self._keeper.replay(
            lambda count, refusal: self._count(FAILED if refusal else REPLAYED, count),
            lambda: not (self._closing or self._flushes or self._length >= self._limits.batch),
        )
        if refusal is not None:
            self._rest(refusal)
            return False
        if replayed := self.counts.get(REPLAYED) - before:
            self._taken()
            say(f"export.{self.what}.replayed", f"{number(replayed, self.what)} that were kept are sent", level="debug")
        return True

    def _drop_oldest(self) -> None:
        while len(self._queue) > 1 and (self._length > self._limits.queue or self._more.size > self._limits.memory):
            try:
                item = self._queue.popleft()
            except IndexError:
                return
            self._count(DROPPED, self._out(item).count)

    def _count(self, name: str, count: int = 1) -> None:
        self.counts.add(name, count)
        if name not in {SENT, REPLAYED}:
            counters.add(f"{self.what}.{name}", count)

    def _report(self) -> None:
        """Say what was lost since it was last said; on this thread, because writing may block."""
        losses = [self._loss(name) for name in (FAILED, DROPPED)]
        if any(losses) and say(f"export.{self.what}.lost", "; ".join(filter(None, losses))):
            self._reported = {name: self.counts.get(name) for name in self._reported}

    def _loss(self, name: str) -> str:
        count = self.counts.get(name) - self._reported[name]
        if not count:
            return ""
        because = f" ({self.reason})" if self.reason else ""
        if name == FAILED:
            return f"{number(count, self.what)} could not be sent to {self.target}{because}"
        full = f"the queue of {self._limits.queue} to {self.target} is full{because}"
        return f"{number(count, self.what)} dropped, as {full}"


class _Flush:
    def __init__(self) -> None:
        self.done = Latch()
        self.sent = False


def _suppress_instrumentation() -> None:
    """Keep the exporter's own requests from being traced; the thread keeps this context for its life."""
    from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY, attach, set_value

    attach(set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
