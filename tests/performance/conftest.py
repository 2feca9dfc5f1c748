"""The reference agent, called for measure: `pytest -m benchmark`, and `-m regression` against what was before."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from voicespan.demo.processes import Processes
from voicespan.demo.scenarios import named
from voicespan.demo.speech import CALLER, synthesized
from voicespan.demo.telephone import Telephone
from voicespan.latency.call import Manners, make_calls
from voicespan.latency.report import Report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CALLS = int(os.environ.get("BENCHMARK_CALLS", "20"))
TARGET_MS = 1_500.0
"""The reference agent waits for half a second of silence and a model that takes a quarter: it is no quick one."""

_START_S = 60.0
_NOWHERE = "http://127.0.0.1:9"


class _Agent:
    """Model, speech worker and orchestrator, on a thread of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        self._up, self._over = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._run(),))
        self.url = ""

    def __enter__(self) -> str:
        self._thread.start()
        assert self._up.wait(_START_S)
        return self.url

    def __exit__(self, *args: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join()
        self._loop.close()

    async def _run(self) -> None:
        async with Processes(endpoint=_NOWHERE, directory=self._folder) as processes:
            self.url = f"http://127.0.0.1:{processes.orchestrator.port}"
            self._up.set()
            await self._over.wait()


@pytest.fixture(scope="package")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The reference agent, at this HTTP address; its telemetry goes nowhere."""
    with _Agent(tmp_path_factory.mktemp("agent")) as url:
        yield url


@pytest.fixture(scope="package")
def latency(agent: str, written: Callable[[str, Any], None]) -> Report:
    """The report of CALLS calls, which is also in `latency_benchmark.json` of pytest's temporary directory."""

    def dial(number: int) -> Telephone:
        return Telephone(f"{agent.replace('http', 'ws')}/call", seed=number)

    manners = Manners(question=synthesized(f"{named('plain').question}?", CALLER))
    report = Report(asyncio.run(make_calls(dial, CALLS, manners, at_once=1, told=lambda _: None)), TARGET_MS)
    written("latency_benchmark.json", report.data())
    print(f"\n{report.text()}")
    return report


@pytest.fixture(scope="package")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Any], None]:
    """Give what writes a result into pytest's temporary directory, where a baseline is copied from."""

    def write(name: str, data: Any) -> None:
        file = tmp_path_factory.getbasetemp() / name
        file.write_text(json.dumps(data, indent=1) + "\n")
        print(f"\n{file}")

    return write


@pytest.fixture(scope="package")
def baseline() -> Any:
    """What was measured before and is under version control."""
    return json.loads((Path(__file__).parents[1] / "benchmarks" / "baseline_results.json").read_text())
