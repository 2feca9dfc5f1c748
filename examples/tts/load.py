"""Asks the text-to-speech API for short and long texts, voices and languages, and prints its figures as they change.

python load.py [http://127.0.0.1:8010] [--requests 60]
"""

from __future__ import annotations

import argparse
import random
import time
from typing import Any

import httpx

VOICES = (("sam", "en"), ("biden", "en"), ("anna", "de"), ("chloe", "fr"), ("nobody", "en"))
LENGTHS = {3: 6, 8: 6, 18: 4, 40: 3, 80: 1, 150: 1, 230: 1}
"""Words of a text, and how often there are so many."""
WORDS = ("one", "two", "tea", "river", "garden", "evening", "telephone", "weather", "(happy)", "(sad)")


def text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words)) + "."


def line(told: dict[str, Any]) -> str:
    """What is worth a line: requests by length, the time to the first audio, and how many failed."""
    ranges = told["word_count_performance"]
    lengths = "  ".join(f"{name}: {ranges[name]['p90'] * 1000:.0f} ms" for name in sorted(ranges, key=_order))
    first = told["tts"]["latency"].get("p90", 0)
    return f"p90 by words  {lengths}  |  first audio {first * 1000:.0f} ms  |  errors {told['tts']['error_rate']:.0%}"


def _order(name: str) -> int:
    return int(name.rstrip("+").split("-")[0]) + name.endswith("+")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address", nargs="?", default="http://127.0.0.1:8010")
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    statuses: dict[int, int] = {}
    said_s = 0.0
    with httpx.Client(base_url=arguments.address, timeout=30) as client:
        for number in range(arguments.requests):
            voice, language = VOICES[number % len(VOICES)]
            asked = {
                "text": text(rng, rng.choices(list(LENGTHS), list(LENGTHS.values()))[0]),
                "voice_name": voice,
                "language": language,
            }
            status = client.post("/tts", json=asked).status_code
            statuses[status] = statuses.get(status, 0) + 1
            if time.monotonic() - said_s >= 1 or number + 1 == arguments.requests:
                said_s = time.monotonic()
                print(f"{number + 1:4} requests  {line(client.get('/metrics').json())}", flush=True)
    print("  ".join(f"{status}: {count}" for status, count in sorted(statuses.items())))


if __name__ == "__main__":
    main()
