"""What must not leave the process, taken out of a text: who the user is, and what opens doors.

Each rule replaces what it finds by a tag. Every repetition in a pattern is bounded, so that a text takes time in
proportion to its length whatever it holds. Rules of one's own come from the file that VOICESPAN_REDACT names.
"""

from __future__ import annotations

import os
import re
import time
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from voicespan import settings
from voicespan.diagnostics import say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

CARD = "[CARD]"
EMAIL = "[EMAIL]"
KEY = "[KEY]"
PHONE = "[PHONE]"
REDACTED = "[REDACTED]"
SIP = "[SIP]"
SSN = "[SSN]"

_CACHED_LENGTH = 256
_FEW = 8
"""A repetition that varies by no more may stand in another one, as the labels of a host's name."""
_CACHED_TEXTS = 4096
_PIECE = 8192
"""So much of a long text is searched at a time: no other thread runs meanwhile."""
_LONGEST = 8192
"""No match is longer; the built-in rules bound theirs."""
_LUHN_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)


class Rule:
    """What to look for, and what stands in its place: a template of `re`, or a function of the match."""

    def __init__(
        self,
        pattern: str | re.Pattern[str],
        replacement: str | Callable[[re.Match[str]], str],
        signs: tuple[str, ...] = (),
    ) -> None:
        self._pattern = pattern
        self._compiled: re.Pattern[str] | None = None
        self.replacement = replacement
        self.signs = signs
        """Without any of these, in lower case, there is nothing to find; none are digits. To look for them is cheap."""

    @property
    def pattern(self) -> re.Pattern[str]:
        """What to look for, compiled when it is first looked for: most processes never meet most of the signs."""
        # No `cached_property`: that of Python 3.11 has a lock, which the child of a fork may find held for ever.
        if self._compiled is None:
            self._compiled = re.compile(self._pattern)
        return self._compiled


def _card(match: re.Match[str]) -> str:
    digits = [int(letter) for letter in match[0] if letter.isdigit()]
    return CARD if luhn(digits) else match[0]


def luhn(digits: list[int]) -> bool:
    """Return whether the last digit is the check digit of the others (ISO/IEC 7812-1, annex B)."""
    return sum(digits[-1::-2] + [_LUHN_DOUBLED[digit] for digit in digits[-2::-2]]) % 10 == 0


RULES: tuple[Rule, ...] = (
    # Keys and tokens: by the prefixes that make them easy to find, and by what introduces them.
    Rule(
        r"\b(?:(?:sk|pk|rk)[-_][\w-]{16,256}|AKIA[0-9A-Z]{16}|AIza[\w-]{35}|xox[abposr]-[\w-]{10,256}"
        r"|gh[pousr]_\w{36,256}|eyJ[\w-]{8,2048}\.[\w-]{8,4096}\.[\w-]{4,1024})",
        KEY,
        ("k-", "k_", "akia", "aiza", "xox", "gh", "eyj"),
    ),
    Rule(r"(?i)\b(Bearer|Basic)\s{1,4}[\w.~+/=-]{8,4096}", rf"\1 {KEY}", ("bearer", "basic")),
    Rule(
        r"(?i)\b(api[_-]?key|access[_-]?token|auth[_-]?token|client[_-]?secret|password|passwd|secret)"
        r"([\"']?\s{0,4}[=:]\s{0,4})(?!\[|[\"']\[)(?:\"[^\"]{1,1024}\"|'[^']{1,1024}'|[^\s\"',;&]{4,1024})",
        rf"\1\2{KEY}",
        ("key", "token", "secret", "passw"),
    ),
    # Before e-mail: both have an @.
    Rule(r"(?i)\bsips?:[^\s<>\"',]{1,320}", SIP, ("sip:", "sips:")),
    Rule(r"[\w.%+-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}\b", EMAIL, ("@",)),
    Rule(r"(?i)\btel:\+?[\d().-]{4,24}", PHONE, ("tel:",)),
    Rule(r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])", SSN),
    # Card numbers begin with 2 to 6 (ISO/IEC 7812), which time stamps in nanoseconds or milliseconds do not.
    Rule(r"(?<![\w.+-])[2-6]\d{3}(?:[ -]?\d){9,15}(?![\w-])", _card),
    Rule(r"(?<![\w+])\+\d(?:[ ().-]{0,2}\d){6,14}(?!\w)", PHONE, ("+",)),
    Rule(r"(?<![\w.-])(?:\(\d{3}\) ?|\d{3}[-. ])\d{3}[-. ]\d{4}(?![\w-]|\.\d)", PHONE),
    Rule(
        r"/voicepacks/(?!\[)[^/\s\"'<>]{1,256}/[^/\s\"'<>]{1,256}/ref/",
        f"/voicepacks/{REDACTED}/",
        ("/voicepacks/",),
    ),
    Rule(r"/voicepacks/(?!\[)[^\s\"'<>]{1,1024}", f"/voicepacks/{REDACTED}/", ("/voicepacks/",)),
)
"""The rules that always hold, in their order."""

_DIGITS = re.compile(r"\d[\d ().-]{5}")
"""What every number has that a rule is for."""

_own: list[tuple[Rule, ...]] = []


def redact(text: str) -> str:
    """Return the text without what the rules find. Short texts are remembered: most of them come again and again."""
    return _remembered(text) if len(text) <= _CACHED_LENGTH else _redacted(text)


def _redacted(text: str) -> str:
    folded, numbers = text.casefold(), _has_numbers(text)
    for rule in RULES:
        for sign in rule.signs:
            if sign in folded:
                break
        else:
            if rule.signs or not numbers:
                continue
        text = _replaced(rule, text)
    for rule in own_rules():
        text = _replaced(rule, text)
    return text


def _has_numbers(text: str) -> bool:
    return any(_DIGITS.search(text, start, start + _PIECE + _FEW) for start in _pieces(text))


def _pieces(text: str) -> Iterable[int]:
    """Give where the pieces of a text begin; between them other threads may run."""
    for start in range(0, len(text), _PIECE):
        if start:
            time.sleep(0)
        yield start


def _replaced(rule: Rule, text: str) -> str:
    """Return the text with the rule applied, as `sub` does it: a piece at a time where it is long."""
    pattern, replacement = rule.pattern, rule.replacement
    if len(text) <= _PIECE:
        return pattern.sub(replacement, text)
    parts: list[str] = []
    done = 0
    for start in _pieces(text):
        end, at = start + _PIECE, max(start, done)
        while at < end and (found := pattern.search(text, at, end + _LONGEST)) and found.start() < end:
            if found.end() >= end + _LONGEST:  # one of the user's own rules, for more than that
                found = pattern.match(text, found.start()) or found
            parts += (
                text[done : found.start()],
                found.expand(replacement) if isinstance(replacement, str) else replacement(found),
            )
            done = found.end()
            at = max(done, found.start() + 1)
    return "".join([*parts, text[done:]]) if parts else text


_remembered = lru_cache(_CACHED_TEXTS)(_redacted)


def redact_identity(text: str) -> str:
    """Return an identifier that was a phone number or address as its tag and a digest: different ones stay different.

    The digest is keyed with VOICESPAN_REDACT_KEY, else with a key that lives as long as the process: without a key, the
    few numbers that there are could be tried out.
    """
    clean = redact(text)
    if clean == text:
        return text
    import hashlib  # with OpenSSL behind it, and most processes never need it
    import hmac

    digest = hmac.new(_key(), text.encode("utf-8", "replace"), hashlib.sha256).hexdigest()[:12]
    return f"{clean}-{digest}"


@lru_cache(1)
def _key() -> bytes:
    given = settings.current().redact_key
    return given.encode() if given else os.urandom(32)


def own_rules() -> tuple[Rule, ...]:
    """Return the rules of the file that VOICESPAN_REDACT names, read once; what is wrong with it is said."""
    if not _own:
        path = settings.current().redact
        _own.append(tuple(_read(Path(path).expanduser())) if path else ())
    return _own[0]


def forget() -> None:
    """Read the file again, and remember no text: for tests."""
    _own.clear()
    _remembered.cache_clear()
    _key.cache_clear()


def _repeats_in_repeats(pattern: re.Pattern[str]) -> bool:
    """Return whether something of open length is repeated often, as in `(a+)+`: there may be too many ways to try."""
    import re._parser as parser  # type: ignore[import-not-found]  # where `re` takes patterns apart

    return _nested(parser.parse(pattern.pattern, pattern.flags & ~re.DEBUG), inside=False)


def _nested(parsed: Any, *, inside: bool) -> bool:
    for operation, argument in parsed:
        name = str(operation)
        if name in ("MAX_REPEAT", "MIN_REPEAT"):
            least, most, part = argument
            open_ended = most - least > _FEW
            if (open_ended and inside) or _nested(part, inside=inside or open_ended):
                return True
        elif any(_nested(part, inside=inside) for part in _parts(argument)):
            return True
    return False


def _parts(argument: Any) -> Iterable[Any]:
    """Return the patterns within an element of a pattern: of a group, of a branch."""
    if type(argument).__name__ == "SubPattern":
        yield argument
    elif isinstance(argument, tuple | list):
        for each in argument:
            yield from _parts(each)


def _read(path: Path) -> Iterable[Rule]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        say("redact", f"VOICESPAN_REDACT: cannot read {path}: {error}; only the built-in rules hold")
        return
    for number, line in enumerate(lines, 1):
        pattern, _, tag = line.partition("\t")
        if not pattern.strip() or pattern.startswith("#"):
            continue
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            say(f"redact.{number}", f"VOICESPAN_REDACT: {path}:{number}: {error}; the line is left out")
            continue
        if _repeats_in_repeats(compiled):
            why = "a repetition in a repetition may take for ever"
            say(f"redact.{number}", f"VOICESPAN_REDACT: {path}:{number}: {why}; the line is left out")
            continue
        if compiled.search(""):
            say(f"redact.{number}", f"VOICESPAN_REDACT: {path}:{number}: matches everything; the line is left out")
            continue
        replacement = tag.strip() or REDACTED
        yield Rule(compiled, lambda _, words=replacement: words)  # type: ignore[misc]
