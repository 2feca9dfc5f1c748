from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voicespan.local import columns as columns_module
from voicespan.local import figures
from voicespan.local.columns import NONE, Columns
from voicespan.local.decode import ReceivedSpan, decode_protobuf
from voicespan.local.query import TurnQuery
from voicespan.local.retention import Retention
from voicespan.local.schema import StoreError
from voicespan.local.store import Store

from .otlp import Trace, request
from .plain import some_turns

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TRACES = some_turns(12, seed=5)


def received(trace: Trace, part: slice = slice(None)) -> Sequence[ReceivedSpan]:
    """Some spans of a trace."""
    return decode_protobuf(request(*trace.spans[part]).SerializeToString()).spans


def content(columns: Columns) -> dict[bytes, tuple[object, ...]]:
    """All values by trace."""
    values = zip(*columns.numbers.values(), *columns.flags.values(), *columns.labels.values(), strict=True)
    return dict(zip(columns.trace_ids, values, strict=True))


def check(columns: Columns, path: Path) -> None:
    """Compare columns that were kept in step with ones that are read anew, and every order with its values."""
    fresh = Columns(path)
    with columns.current(), fresh.current():
        assert content(columns) == content(fresh)
        for name, values in columns.numbers.items():
            expected = sorted((value, position) for position, value in enumerate(values) if value != NONE)
            assert list(columns.order(name)) == [position for _, position in expected]
    fresh.close()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["first", "rest", "forget", "look"]), st.integers(0, len(TRACES) - 1)), max_size=30
    )
)
def test_columns_stay_in_step(steps: list[tuple[str, int]]) -> None:
    """Whatever is stored, completed and forgotten between two questions, the columns are those of the database."""
    with Store() as store:
        for step, number in steps:
            trace = TRACES[number]
            if step == "first":
                store.add(received(trace, slice(0, 9)))
            elif step == "rest":
                store.add(received(trace, slice(9, None)))
            elif step == "forget":
                with store._writing("nothing"):
                    for table in ("turn", "part"):
                        store._connection.execute(f"DELETE FROM {table} WHERE trace_id = ?", [trace.trace_id])
            else:
                check(store.reader.columns, store.path)
        check(store.reader.columns, store.path)


@pytest.mark.parametrize("few", [0, 10_000])
def test_orders_are_kept_however_many_come(few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few turns are put into their places, many are sorted in; both give the same orders."""
    monkeypatch.setattr(columns_module, "_FEW", few)
    with Store() as store:
        check(store.reader.columns, store.path)
        for trace in TRACES:
            store.add(received(trace, slice(3, None)))
            check(store.reader.columns, store.path)
        for trace in random.sample(TRACES, len(TRACES)):
            store.add(received(trace))
            check(store.reader.columns, store.path)


def test_another_process_is_noticed(tmp_path: Path) -> None:
    """What another writer stores or forgets in the same file is in the next answer."""
    path = tmp_path / "turns.db"
    with Store(path) as store, Store(path) as other:
        assert figures.figures(store.reader, TurnQuery())["turns"] == 0
        other.add(received(TRACES[0]))
        assert figures.figures(store.reader, TurnQuery())["turns"] == 1
        other.retention = Retention(max_age_s=-1)
        other.tidy()
        assert figures.figures(store.reader, TurnQuery())["turns"] == 0


def test_nothing_is_read_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """A question after no change reads no row, and one after a change reads the rows that changed."""
    taken: list[int] = []
    take = Columns._take

    def counted(self: Columns, rows: Sequence[tuple[object, ...]]) -> None:
        taken.append(len(rows))
        take(self, rows)

    monkeypatch.setattr(Columns, "_take", counted)
    with Store() as store:
        store.add([span for trace in TRACES for span in received(trace)])
        for _ in range(3):
            figures.figures(store.reader, TurnQuery())
        store.add_content(TRACES[0].trace_id, "user", "hello")
        figures.figures(store.reader, TurnQuery())
        store.add(received(Trace(spans=some_turns(1, seed=9)[0].spans)))
        figures.figures(store.reader, TurnQuery())
    assert taken == [len(TRACES), 1]


def test_questions_beside_a_writer_agree_with_themselves() -> None:
    """Asked from several threads while turns come, every answer is of one moment: its parts add up."""
    failures: list[object] = []
    done = threading.Event()

    def ask(store: Store) -> None:
        while not done.is_set():
            found = figures.figures(store.reader, TurnQuery())
            offered = figures.choices(store.reader, TurnQuery())
            if found["answered"] + found["unanswered"] > found["turns"]:
                failures.append(found)
            if sum(each["turns"] for each in offered["service"]) < found["turns"]:
                failures.append((found, offered))

    with Store() as store:
        threads = [threading.Thread(target=ask, args=(store,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for trace in some_turns(60, seed=7):
            store.add(received(trace))
        done.set()
        for thread in threads:
            thread.join()
    assert not failures


def test_missing_and_damaged_databases_are_said(tmp_path: Path) -> None:
    """A question that cannot be answered says why, and is answered once it can be."""
    path = tmp_path / "turns.db"
    columns = Columns(path)
    with pytest.raises(StoreError, match="no database"), columns.current():
        pass
    with Store(path) as store:
        store.add(received(TRACES[0]))
        with store._writing("damage"):
            store._connection.execute("ALTER TABLE turn RENAME TO away")
        with pytest.raises(StoreError, match="no such table"), columns.current():
            pass
        with store._writing("repair"):
            store._connection.execute("ALTER TABLE away RENAME TO turn")
        with columns.current():
            assert columns.trace_ids == [TRACES[0].trace_id]
    columns.close()
    assert columns.trace_ids == []
