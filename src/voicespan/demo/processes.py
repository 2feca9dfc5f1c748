"""The demo's processes: started together, watched, the speech worker replaced when it dies, all gone at the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.request import Request, urlopen

from voicespan import names as n
from voicespan import run
from voicespan.demo import truth
from voicespan.version import __version__

MODEL_VARIABLE = "OPENAI_BASE_URL"
"""Where this is set, the agent asks that language model, with OPENAI_API_KEY and OPENAI_MODEL, not the stand-in."""
PAGE_VARIABLE = "VOICESPAN_DEMO_VIEWER"
"""Where this names a viewer, the agent serves a page, for which it asks that viewer."""
START_TIMEOUT_S = 40.0
STOP_TIMEOUT_S = 4.0
_SCRAPE_TIMEOUT_S = 5.0
_ASK_EVERY_S = 0.05
_TAIL_LINES = 12
_NO_CALL = r"healthz,/viewer/,/api/,/$,\.(js|css|svg)$"
"""Addresses whose requests are no spans."""
_FOREIGN = ("OTEL_", "VOICESPAN_")
"""What the user has set for an own service is not meant for the demo's processes."""
_KEPT = "VOICESPAN_RUN"
"""But for the name of the run: two demos can be compared by theirs."""
_RESOURCE = f"{n.DEPLOYMENT_ENVIRONMENT_NAME}=demo,{n.SERVICE_VERSION}={__version__}"
"""So that a dashboard has something to choose by."""


class ProcessFailed(RuntimeError):
    """A process did not start, or ended when it should not; the message carries the end of what it wrote."""


@dataclass(slots=True)
class Child:
    """One process and how to start it again."""

    name: str
    arguments: Sequence[str]
    environ: Mapping[str, str]
    log: Path
    port: int | None = None
    process: Process | None = field(default=None)

    @property
    def pid(self) -> int:
        """The process id.

        Raises:
            ProcessFailed: it was not started.

        """
        if self.process is None:
            raise ProcessFailed(f"the {self.name} was not started")
        return self.process.pid

    async def start(self, stdout: int = DEVNULL) -> None:
        """Start it, and wait until it listens on its port, if it has one.

        Raises:
            ProcessFailed: it ended, or did not listen in time.

        """
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "voicespan.demo.serve", *self.arguments, "--lifeline"),
                stdin=PIPE,  # nothing is written: it closes when this process ends, however it ends
                stdout=stdout,
                stderr=log,
                env=dict(self.environ),
                start_new_session=True,  # Ctrl-C is for this process: it ends the others in order
            )
        if self.port is not None:
            await self._listening(self.process, self.port)

    async def _listening(self, process: Process, port: int) -> None:
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                while not await _accepts(port):
                    if process.returncode is not None:
                        raise ProcessFailed(f"the {self.name} did not start: {self.ending()}")
                    await asyncio.sleep(_ASK_EVERY_S)
        except TimeoutError:
            raise ProcessFailed(f"the {self.name} did not listen on port {port} in time: {self.ending()}") from None

    async def ended(self) -> int:
        """Wait until it has ended by itself, and return its status."""
        return await self.process.wait() if self.process is not None else 0

    async def stop(self) -> None:
        """End it: politely, then for sure."""
        process = self.process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    def ending(self) -> str:
        """Return how it ended and the last lines that it wrote."""
        status = self.process.returncode if self.process is not None else None
        how = "it runs" if status is None else f"status {status}"
        if status is not None and status < 0:
            how = signal.Signals(-status).name
        lines = self.log.read_text(errors="replace").splitlines()[-_TAIL_LINES:] if self.log.exists() else []
        return "\n  ".join([how, *lines])


class Processes:
    """Model, speech worker and orchestrator, running; used as an asynchronous context manager.

    Logs and notes of what happened are kept in `directory`. Telemetry goes to `endpoint`, with `content` also what the
    agent hears and says, with `metrics` also metrics. With `scrape`, agent and worker can be asked for their metrics.
    With `page` the agent serves the page where a person talks to it.
    """

    def __init__(
        self,
        *,
        endpoint: str,
        directory: Path,
        seed: int = 0,
        content: bool = False,
        metrics: bool = False,
        scrape: bool = False,
        page: bool = False,
        environ: Mapping[str, str] = os.environ,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.truth = directory / "truth.jsonl"
        self.recording = directory / "call.wav"
        self._directory = directory
        self._endpoint = endpoint
        self._seed = seed
        self._metrics = {"OTEL_METRIC_EXPORT_INTERVAL": "5000"} if metrics else {"OTEL_METRICS_EXPORTER": "none"}
        self._environ = environ
        self._say = say
        model_port, worker_port, port, *scraped = _free_ports(5)
        self._scraped = dict(zip(("worker", "orchestrator"), scraped, strict=True)) if scrape else {}
        self.model = self._child("model", None, port=model_port)
        self.worker = self._child("worker", "demo-speech", port=worker_port, VOICESPAN_WORKER_ID="tts-espeak@0")
        agent = {"SPEECH_WORKER": f"127.0.0.1:{worker_port}", "VOICESPAN_CONTENT": str(content).lower()}
        if page:
            agent[PAGE_VARIABLE] = endpoint
        if not environ.get(MODEL_VARIABLE):
            agent |= {MODEL_VARIABLE: f"http://127.0.0.1:{model_port}/v1", "OPENAI_API_KEY": "none"}
        self.orchestrator = self._child("orchestrator", "demo-agent", port=port, **agent)
        self._watch: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        try:
            await asyncio.gather(*(child.start() for child in (self.model, self.worker, self.orchestrator)))
        except BaseException:
            await self._stop()
            raise
        self._watch = asyncio.create_task(self._replace_worker())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        await self._stop()

    async def _stop(self) -> None:
        await asyncio.gather(*(child.stop() for child in (self.orchestrator, self.worker, self.model)))

    def scrape(self) -> None:
        """Write what each service tells of itself, in the OpenMetrics format, to `<role>.metrics` beside its log."""
        for role, port in self._scraped.items():
            asked = Request(f"http://127.0.0.1:{port}/metrics", headers={"Accept": "application/openmetrics-text"})
            try:
                with urlopen(asked, timeout=_SCRAPE_TIMEOUT_S) as answer:  # noqa: S310
                    (self._directory / f"{role}.metrics").write_bytes(answer.read())
            except OSError as error:
                self._say(f"the metrics of the {role} could not be had: {error}")

    @property
    def page(self) -> str:
        """The address of the page where a person talks to the agent."""
        return f"http://127.0.0.1:{self.orchestrator.port}/"

    async def call(self, names: Sequence[str]) -> AsyncIterator[str]:
        """Have the caller go through these scenarios; yields the name of each when it begins.

        Raises:
            ProcessFailed: the call broke off.

        """
        arguments = ("--scenarios", ",".join(names), "--recording", str(self.recording))
        caller = self._child("caller", "demo-caller", *arguments, port=self.orchestrator.port)
        caller.port = None  # it calls that port, and listens on none
        await caller.start(stdout=PIPE)
        assert caller.process is not None
        assert caller.process.stdout is not None
        try:
            async for line in caller.process.stdout:
                yield json.loads(line)["scenario"]
            if await caller.process.wait() != 0:
                raise ProcessFailed(f"the call broke off: {caller.ending()}")
        finally:
            await caller.stop()

    def _child(self, role: str, service: str | None, *arguments: str, port: int | None, **variables: str) -> Child:
        foreign = [key for key in self._environ if key.startswith(_FOREIGN) and key != _KEPT]
        environ = {key: value for key, value in self._environ.items() if key not in foreign}
        environ |= {truth.VARIABLE: str(self.truth), **variables}
        if service is not None:
            environ |= {**self._metrics, "OTEL_LOGS_EXPORTER": "none"}
            environ |= {"OTEL_PYTHON_FASTAPI_EXCLUDED_URLS": _NO_CALL, "OTEL_RESOURCE_ATTRIBUTES": _RESOURCE}
            environ = run.environment(environ, service, self._endpoint)
        if role in self._scraped:
            environ |= {"VOICESPAN_PROMETHEUS_PORT": str(self._scraped[role])}
        options = (role, "--port", str(port), "--seed", str(self._seed), *arguments)
        return Child(role, options, environ, self._directory / f"{role}.log", port)

    async def _replace_worker(self) -> None:
        """Start the speech worker again whenever it dies; the agent finds it by itself."""
        while True:
            status = await self.worker.ended()
            self._say(f"the speech worker died (status {status}) and is replaced")
            try:
                await self.worker.start()
            except ProcessFailed as failure:
                self._say(str(failure))
                return


async def _accepts(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True


def _free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on now; held together, so that they differ."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
