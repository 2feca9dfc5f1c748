"""Feeds the parsers with bytes that are led by what they reach in the code (Atheris, libFuzzer).

    pip install atheris          # Linux; no requirement of the project, as it is there for some versions of Python only
    python fuzz/run.py [TARGET ...] [--seconds 60]

Ends with the first failure: libFuzzer writes its bytes to a file `crash-...` here. What was reached is in build/fuzz/.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def fuzz(name: str, seconds: int) -> None:
    """Fuzz one target in this process; does not return."""
    import atheris

    with atheris.instrument_imports(include=["voicespan"]):
        from targets import TARGETS
    target, seeds = TARGETS[name]
    corpus = ROOT / "build" / "fuzz" / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    options = [f"-max_total_time={seconds}", "-max_len=4096", "-timeout=10", "-rss_limit_mb=2048", str(corpus)]
    atheris.Setup([sys.argv[0], *options], target)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.here:
        fuzz(given.targets[0], given.seconds)
    from targets import TARGETS

    for name in given.targets or TARGETS:
        print(f"{name}: {given.seconds} s", flush=True)
        command = [sys.executable, __file__, name, "--here", "--seconds", str(given.seconds)]
        if subprocess.run(command, check=False).returncode:
            sys.exit(f"{name} failed")


if __name__ == "__main__":
    main()
