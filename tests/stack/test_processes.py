"""Starting and stopping the services of the stack, with small real processes in their place."""

from __future__ import annotations

import errno
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from tests.children import children
from tests.ports import free_port

from voicespan.stack.processes import Stack, StackError, healthy
from voicespan.stack.services import Service

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
ANSWERS = (
    "import http.server as h, sys\n"
    "h.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), h.SimpleHTTPRequestHandler).serve_forever()"
)
FAILS = "import sys; print('the reason stands here'); sys.exit(3)"
REFUSES = "import sys; sys.exit('line 7: no such key')"


def service(name: str, program: str = ANSWERS, check: str | None = None) -> Service:
    """A service that is a Python program."""
    port = free_port()
    return Service(
        name=name,
        command=(sys.executable, "-c", program, str(port)),
        check=() if check is None else (sys.executable, "-c", check),
        health=f"http://127.0.0.1:{port}/",
        ports=(port,),
        page=f"http://127.0.0.1:{port}/",
    )


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """A stack in a folder of its own, stopped in the end."""
    stack = Stack(tmp_path / "state")
    yield stack
    stack.down()


def test_services_come_up_and_go_down_again(stack: Stack) -> None:
    """Started services answer, are known to another command, and are gone after `down`."""
    found = stack.up([service("one"), service("two")], lambda _: None)
    assert [each.name for each in found] == ["one", "two"]
    again = Stack(stack.state).running()
    assert again == found
    assert all(healthy(each) for each in again)
    assert [each.name for each in Stack(stack.state).down()] == ["one", "two"]
    assert not any(psutil.pid_exists(each.pid) and each.process() for each in found)
    assert stack.running() == []


def test_what_runs_already_is_left_alone(stack: Stack) -> None:
    """A second `up` starts only what is missing."""
    one, two = service("one"), service("two")
    (first,) = stack.up([one], lambda _: None)
    said: list[str] = []
    assert stack.up([one, two], said.append)[0] == first
    assert said == ["starting two"]


def test_a_service_that_ends_takes_the_others_with_it(stack: Stack) -> None:
    """When one does not come up, its last lines are shown, and nothing half-started is left behind."""
    started: list[str] = []
    with pytest.raises(StackError, match=r"two ended at once\n  the reason stands here"):
        stack.up([service("one"), service("two", FAILS)], started.append)
    assert started == ["starting one", "starting two"]
    assert stack.running() == []
    assert children(ANSWERS) == []


def test_a_port_that_is_just_being_given_back_is_waited_for(stack: Stack) -> None:
    """What somebody who has ended holds for a moment longer stops no start."""
    one = service("one")
    taken = socket.create_server(("127.0.0.1", one.ports[0]))
    later = threading.Timer(0.3, taken.close)
    later.start()
    stack.up([one], lambda _: None)
    later.join()


def test_a_port_that_nobody_may_have_is_said(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system refuses a port that nobody holds, its own reason is said."""

    def refuse(_address: object) -> socket.socket:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket, "create_server", refuse)
    with pytest.raises(StackError, match="which it cannot have: Permission denied"):
        stack.up([service("one")], lambda _: None)


def test_a_taken_port_is_said_before_anything_starts(stack: Stack) -> None:
    """A port that somebody holds is named, with who holds it, and no service is started."""
    one, two = service("one"), service("two")
    taken = f"two needs port {two.ports[0]}, which is taken by process"
    with socket.create_server(("127.0.0.1", two.ports[0])), pytest.raises(StackError, match=taken):
        stack.up([one, two], lambda _: None)
    assert stack.running() == []


def test_a_wrong_configuration_is_said_before_anything_starts(stack: Stack) -> None:
    """What the service's own check says is the error, and no service is started."""
    with pytest.raises(StackError, match="the configuration of two is wrong: line 7: no such key"):
        stack.up([service("one"), service("two", check=REFUSES)], lambda _: None)
    assert stack.running() == []


COLLECTOR_REFUSES = """
import sys
sys.exit('''Error: failed to get config: decoding failed due to the following error(s):

'processors' error reading configuration for "memory_limiter": decoding failed due to the following error(s):

'limit_mib' cannot parse value as 'uint32': -3 overflows uint''')
"""


def test_why_it_does_not_start_is_one_line(stack: Stack) -> None:
    """A configuration that the Collector refuses, and the error with which it ends, are each said in one line."""
    with pytest.raises(StackError) as refused:
        stack.up([service("one", check=COLLECTOR_REFUSES)], lambda _: None)
    assert str(refused.value) == (
        "the configuration of one is wrong: failed to get config: 'processors' error reading configuration for "
        "\"memory_limiter\": 'limit_mib' cannot parse value as 'uint32': -3 overflows uint"
    )
    with pytest.raises(StackError) as ended:
        stack.up([service("two", "print('starting'); import sys; sys.exit('Error: no such token')")], lambda _: None)
    assert str(ended.value) == f"two ended at once: no such token (all that it said: {stack.log('two')})"


@pytest.mark.parametrize("folder", ["", "logs", "queue"])
def test_a_folder_that_cannot_be_written_is_one_line(folder: str, tmp_path: Path) -> None:
    """A file in the place of the state, of its logs or of a service's data is named, and nothing is started."""
    stack = Stack(tmp_path / "state")
    file = stack.state / folder
    file.parent.mkdir(exist_ok=True)
    file.touch()
    one = service("one")
    needy = Service(name="one", command=one.command, health=one.health, ports=one.ports, page=one.page,
                    folders=(stack.state / "queue",))  # fmt: skip
    with pytest.raises(StackError, match=f"^cannot write {file}: File exists$"):
        stack.up([needy], lambda _: None)
    assert stack.running() == []


def test_a_clock_that_is_set_loses_no_process(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the system's clock is corrected, and with it the time at which processes began, ours are still ours."""
    (one,) = stack.up([service("one")], lambda _: None)
    began = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: began(process) + 0.01)
    assert stack.running() == [one]
    assert stack.down() == [one]
    assert not psutil.pid_exists(one.pid) or psutil.Process(one.pid).status() == psutil.STATUS_ZOMBIE


SLOW_UP = """
import sys
from tests.stack.test_processes import FAILS, service
from voicespan.stack.processes import Stack
from pathlib import Path
stack = Stack(Path(sys.argv[1]))
never = service("never", "import time; time.sleep(60)")
stack.up([service("one"), never], lambda said: print(said, flush=True))
"""


def slow_up(stack: Stack) -> subprocess.Popen[str]:
    """Another command that starts two services, of which the second does not come up."""
    command = [sys.executable, "-c", SLOW_UP, str(stack.state)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    while process.stdout.readline() != "starting never\n":
        pass
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_an_interrupted_start_leaves_nothing(number: int, stack: Stack) -> None:
    """A start that is told to end stops what it has begun."""
    with slow_up(stack) as process:
        deadline = time.monotonic() + 20
        while len(begun := stack.running()) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait(20) != 0
    assert stack.running() == []
    assert not any(each.process() for each in begun)


def test_only_one_command_works_at_a_time(stack: Stack) -> None:
    """While one command starts the services another one neither starts nor stops any."""
    with slow_up(stack) as process:
        try:
            busy = "another `voicespan stack` starts or stops the services now"
            with pytest.raises(StackError, match=busy):
                stack.up([service("three")], lambda _: None)
            with pytest.raises(StackError, match=busy):
                stack.down()
        finally:
            process.terminate()
            process.wait(20)


def test_a_recycled_process_id_is_not_ours(stack: Stack) -> None:
    """A process that has the id of one of ours, but began at another time, is neither listed nor stopped."""
    (one,) = stack.up([service("one")], lambda _: None)
    record = stack.state / "stack.json"
    kept = record.read_text()
    record.write_text(kept.replace(str(one.started), str(one.started - 100)))
    assert stack.running() == []
    assert stack.down() == []
    assert psutil.Process(one.pid).is_running()
    record.write_text(kept)
