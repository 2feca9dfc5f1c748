"""Starting the services of the stack, watching them come up, and stopping them: all of them or none."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from voicespan.local import port as ports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from voicespan.stack.services import Service

READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
_PORT_TIMEOUT_S = 1.0
_POLL_S = 0.1
_ANSWER_TIMEOUT_S = 1.0
_LOG_LINES = 12
_REASON = "Error: "
_NO_WORDS = re.compile(r"decoding failed due to the following error\(s\):|^Error:|^'' *$", re.MULTILINE)
"""What the Collector says around what is wrong with its configuration."""


class StackError(Exception):
    """The stack could not be started; the message says which service, and why."""


@dataclass(frozen=True, slots=True)
class Running:
    """A process of the stack that was started earlier, perhaps by another `voicespan stack up`."""

    name: str
    pid: int
    started: float
    """When the process began, in a unit of the system's: with the pid, what no other process has."""
    page: str
    health: str

    def process(self) -> psutil.Process | None:
        """Return the process; None when it is gone."""
        try:
            process = psutil.Process(self.pid)
            alive = _started(process) == self.started and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return process if alive else None


class Stack:
    """The processes that run out of one state folder."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self._record = state / "stack.json"

    def running(self) -> list[Running]:
        """Return what was started here and is still alive, in order of start."""
        try:
            entries = json.loads(self._record.read_text())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return []
        return [each for entry in entries if (each := Running(**entry)).process() is not None]

    def log(self, name: str) -> Path:
        """Return the file that a service writes to."""
        return self.state / "logs" / f"{name}.log"

    def up(self, services: Sequence[Service], report: Callable[[str], None]) -> list[Running]:
        """Start the services that do not run yet, one after the other; `report` hears of each.

        Raises:
            StackError: a port is taken, a configuration is wrong, or a service does not come up. What this call had
                started is stopped again.

        """
        with self._alone(), _told_to_end():
            return self._up(services, report)

    def _up(self, services: Sequence[Service], report: Callable[[str], None]) -> list[Running]:
        running = {each.name: each for each in self.running()}
        wanted = [service for service in services if service.name not in running]
        for service in wanted:
            _check_ports(service)
        for service in wanted:
            _check_configuration(service)
        begun: list[Running] = []
        try:
            for service in wanted:
                report(f"starting {service.name}")
                with _undisturbed():
                    begun.append(self._start(service))
                    self._write([*running.values(), *begun])
                self._wait_until_ready(begun[-1])
        except BaseException:
            self._stop(begun)
            self._write(running.values())
            raise
        return [*running.values(), *begun]

    def down(self) -> list[Running]:
        """Stop everything, the last started first; return what was running.

        Raises:
            StackError: another command starts or stops it at this moment.

        """
        with self._alone():
            running = self.running()
            self._stop(running)
            self._write([])
            return running

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let no other command change what runs meanwhile."""
        _make(self.state)
        with (self.state / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StackError("another `voicespan stack` starts or stops the services now") from None
            yield

    def _start(self, service: Service) -> Running:
        log = self.log(service.name)
        for folder in (log.parent, *service.folders):
            _make(folder)
        for file in service.secrets:
            _make_up(file)
        # Not subprocess: it outlives us, and nobody is to wait for it. Ctrl-C in this terminal is not for it either.
        pid = os.posix_spawn(
            service.command[0],
            service.command,
            {**os.environ, **service.environ},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigmask=(),
        )
        return Running(service.name, pid, _started(psutil.Process(pid)), service.page, service.health)

    def _wait_until_ready(self, service: Running) -> None:
        until = time.monotonic() + READY_TIMEOUT_S
        while not healthy(service):
            if service.process() is None:
                raise StackError(self._ended(service.name))
            if time.monotonic() > until:
                raise StackError(
                    f"{service.name} did not answer at {service.health} for {READY_TIMEOUT_S:.0f} s\n"
                    f"{self._end_of_log(service.name)}"
                )
            time.sleep(_POLL_S)

    def _ended(self, name: str) -> str:
        """Say why a service ended: in one line where its own last words are one, as the Collector's are."""
        log = self.log(name)
        *_, last = log.read_text(errors="replace").strip().splitlines() or [""]
        if last.startswith(_REASON):
            return f"{name} ended at once: {last.removeprefix(_REASON)} (all that it said: {log})"
        return f"{name} ended at once\n{self._end_of_log(name)}"

    def _end_of_log(self, name: str) -> str:
        log = self.log(name)
        lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        return "\n".join([*(f"  {line}" for line in lines), f"  (all of it: {log})"])

    def _stop(self, running: Sequence[Running]) -> None:
        # The sender goes before its receiver: the Collector empties its queues into what still runs.
        for each in reversed(running):
            process = each.process()
            if process is not None:
                _end(process)

    def _write(self, running: Iterable[Running]) -> None:
        self.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        entries = [{name: getattr(each, name) for name in Running.__slots__} for each in running]
        new = self._record.with_suffix(".new")
        new.write_text(json.dumps(entries))
        new.replace(self._record)


@contextmanager
def _told_to_end() -> Iterator[None]:
    """Make SIGTERM and SIGHUP an exception, as Ctrl-C is: what was started is stopped again."""

    def end(number: int, _: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Hold signals back: a process that has begun is written down before anything else happens."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP, signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _make_up(file: Path) -> None:
    """Write a password that only this user can read, unless there is one."""
    with suppress(FileExistsError), os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as new:
        new.write(secrets.token_urlsafe(16))


def _started(process: psutil.Process) -> float:
    """Return when a process began: in ticks since boot where the system has them.

    psutil's time is that plus the time of the boot, which moves when the clock is set.
    """
    try:
        status = Path(f"/proc/{process.pid}/stat").read_text()
    except FileNotFoundError:
        return process.create_time()
    # The second field is the name, in parentheses, and may have any character.
    return float(status.rpartition(")")[2].split()[19])


def healthy(service: Running) -> bool:
    """Return whether the service answers that it is ready."""
    try:
        with urllib.request.urlopen(service.health, timeout=_ANSWER_TIMEOUT_S) as answer:  # noqa: S310 - our own table
            return bool(answer.status == 200)  # noqa: PLR2004
    except (OSError, ValueError):
        return False


def _end(process: psutil.Process) -> None:
    """Ask the process to end, and make it end when it does not listen."""
    try:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait(STOP_TIMEOUT_S)
    except psutil.NoSuchProcess:
        pass


def _check_ports(service: Service) -> None:
    for port in service.ports:
        # What was stopped a moment ago may hold its port still: the kernel closes its sockets when it comes to it.
        until = time.monotonic() + _PORT_TIMEOUT_S
        while (error := _refused(port)) is not None and time.monotonic() < until:
            time.sleep(_POLL_S)
        if error is not None:
            taken = error.errno == errno.EADDRINUSE
            why = f"which is taken by {ports.holder(port)}" if taken else f"which it cannot have: {error.strerror}"
            raise StackError(f"{service.name} needs port {port}, {why}")


def _refused(port: int) -> OSError | None:
    """Return why nobody can listen on the port; None where it is free."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError as error:
        return error
    return None


def _check_configuration(service: Service) -> None:
    if not service.check:
        return
    for folder in service.folders:
        _make(folder)
    found = subprocess.run(  # noqa: S603
        service.check, env={**os.environ, **service.environ}, capture_output=True, text=True, check=False
    )
    if found.returncode:
        said = " ".join(_NO_WORDS.sub("", found.stderr or found.stdout).split())
        raise StackError(f"the configuration of {service.name} is wrong: {said}")


def _make(folder: Path) -> None:
    """Make a folder that only this user can read, unless it is there."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StackError(f"cannot write {folder}: {error.strerror}") from None
    if not os.access(folder, os.W_OK):
        raise StackError(f"cannot write {folder}: {os.strerror(errno.EACCES)}")
