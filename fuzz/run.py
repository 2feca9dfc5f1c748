"""Feeds the parsers with bytes that are led by what they reach in the code (Atheris, libFuzzer).

    make fuzz                                        # a minute for each target
    make fuzz ARGS="spool_file --seconds 600"        # some, and longer

Every target gets its time, also after one that failed. In build/fuzz/ is what was reached, to go on from the next time,
and the bytes that a target failed with: `TARGET-crash-...`.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

FOUND = Path(__file__).parents[1] / "build" / "fuzz"


def fuzz(name: str, seconds: int) -> None:
    """Fuzz one target in this process; does not return."""
    import atheris

    with atheris.instrument_imports(include=["voicespan"]):
        from fuzz.targets import TARGETS
    target, seeds = TARGETS[name]
    corpus = FOUND / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    options: dict[str, object] = {
        "max_total_time": seconds,
        "max_len": 8192,
        "timeout": 10,
        "rss_limit_mb": 2048,
        "artifact_prefix": f"{FOUND / name}-",
    }
    if words := set(re.findall(rb"[A-Za-z_.]{3,40}", b" ".join(seeds))):
        dictionary = FOUND / f"{name}.words"
        options["dict"] = dictionary
        dictionary.write_bytes(b"".join(b'"%s"\n' % word for word in sorted(words)))
    atheris.Setup([sys.argv[0], *(f"-{option}={value}" for option, value in options.items()), str(corpus)], target)
    atheris.Fuzz()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.here:
        fuzz(given.targets[0], given.seconds)
    from fuzz.targets import TARGETS

    failed = []
    for name in given.targets or TARGETS:
        print(f"{name}: {given.seconds} s", flush=True)
        command = [sys.executable, "-m", "fuzz.run", name, "--here", "--seconds", str(given.seconds)]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; with which bytes, is in {FOUND}")


if __name__ == "__main__":
    main()
