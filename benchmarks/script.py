"""One script of this folder, run on its own; what it prints last is JSON."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Script:
    """Its name without `.py`, and what it is told."""

    name: str
    arguments: tuple[str, ...] = ()

    def run(self) -> dict[str, Any]:
        """Return what it has found, with the seconds that it took; `failed` and why where it has found nothing."""
        began = time.monotonic()
        print(f"benchmarks/{self.name}.py", file=sys.stderr, flush=True)
        command = [sys.executable, HERE / f"{self.name}.py", *self.arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        took = {"took_s": round(time.monotonic() - began)}
        try:
            return {**json.loads(done.stdout[done.stdout.index("{") :]), **took}
        except ValueError:
            why = (done.stderr.strip() or f"it ended with {done.returncode}").splitlines()[-1]
            return {"failed": why, **took}
