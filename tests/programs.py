"""Programs of others that a test needs: who lacks one skips the test; the machine that checks everything fails."""

from __future__ import annotations

import os
import subprocess
from functools import cache
from typing import TYPE_CHECKING, NoReturn

import pytest

from voicespan.stack.generate import CHECKOUT

if TYPE_CHECKING:
    from voicespan.stack.programs import Program


def missing(reason: str) -> NoReturn:
    """End the test for lack of something."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


def program(wanted: Program) -> str:
    """Where a program is."""
    found = wanted.find()
    if found is None:
        missing(f"no {wanted.names[0]} here: {wanted.source}")
    return str(found)


@cache
def built(script: str, *arguments: str) -> str:
    """Where the program or file is that a script of scripts/ makes; the first time, that takes minutes."""
    command = [str(CHECKOUT / "scripts" / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1500)
    if done.returncode:
        missing(f"scripts/{script}: {done.stderr[-500:]}")
    return done.stdout.strip()
