"""The two forms of an OTLP request: protobuf, and JSON with ids in hex."""

from __future__ import annotations

import base64
import binascii
import json
import string
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.message import DecodeError, Message

if TYPE_CHECKING:
    from collections.abc import Iterable

PROTOBUF = "application/x-protobuf"
JSON = "application/json"

_HEX_DIGITS = frozenset(string.hexdigits)
_IDS = frozenset({"traceId", "spanId", "parentSpanId"})

_Request = TypeVar("_Request", bound=Message)


class MalformedRequestError(ValueError):
    """The request is not what it says it is, or nothing in it can be used; the message is the reason."""

    def __init__(self, reason: str, items: int = 0) -> None:
        # The reason may quote what came, and goes back as UTF-8.
        super().__init__(reason.encode(errors="backslashreplace").decode())
        self.items = items
        """How many spans or log records it had, where that could be told."""


def read(kind: type[_Request], form: str, body: bytes) -> _Request:
    """Return the request of this kind that a body in one of the two forms (PROTOBUF, JSON) holds.

    Raises:
        MalformedRequestError: the body is no such message, or holds text that is not UTF-8.

    """
    return _from_json(kind, body) if form == JSON else _from_protobuf(kind, body)


def _from_protobuf(kind: type[_Request], body: bytes) -> _Request:
    try:
        return kind.FromString(body)
    except DecodeError as error:
        raise MalformedRequestError(f"not an {kind.__name__}: {error}") from None


def _from_json(kind: type[_Request], body: bytes) -> _Request:
    try:
        data = json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except RecursionError:
        raise MalformedRequestError("the JSON is nested too deeply") from None
    except ValueError as error:
        raise MalformedRequestError(f"not an {kind.__name__} in JSON: {error}") from None
    return from_plain(kind, data)


def from_plain(kind: type[_Request], data: Any) -> _Request:
    """Return the request that parsed JSON holds; `data` is changed on the way.

    Raises:
        MalformedRequestError: it is no such message.

    """
    try:
        if not isinstance(data, dict):
            raise TypeError(f"it is {type(data).__name__}, not an object")  # noqa: TRY301 - as what follows
        _refuse_surrogates(data)
        _ids_to_base64(data)
        return ParseDict(data, kind(), ignore_unknown_fields=True)
    except RecursionError:
        raise MalformedRequestError("the JSON is nested too deeply") from None
    except (ParseError, ValueError, TypeError, AttributeError, SystemError) as error:
        # json_format lets some type errors through as what the interpreter raised.
        raise MalformedRequestError(f"not an {kind.__name__} in JSON: {error}") from None


def to_plain(message: Message) -> dict[str, Any]:
    """Return a message as OTLP's JSON has it: names in camelCase, ids in hex, enumerations as numbers."""
    data: dict[str, Any] = MessageToDict(message, use_integers_for_enums=True)
    _ids_to_hex(data)
    return data


def _ids_to_hex(data: Any) -> None:
    for key, value in data.items() if isinstance(data, dict) else enumerate(data):
        if key in _IDS:
            data[key] = base64.b64decode(value).hex()
        elif isinstance(value, dict | list):
            _ids_to_hex(value)


def _refuse_surrogates(data: Any) -> None:
    """Raise ValueError where a key or a text has half a character: JSON can write it, UTF-8 and protobuf cannot."""
    json.dumps(data, ensure_ascii=False).encode()


def _ids_to_base64(data: Any) -> None:
    """Rewrite the ids in place: OTLP writes them in hex, protobuf's JSON mapping in base64.

    What users name themselves stands in values, never in keys of OTLP's JSON: there, these keys are ids.
    """
    inner: Iterable[Any] = data
    if isinstance(data, dict):
        inner = data.values()
        for key in _IDS.intersection(data):
            data[key] = _base64(key, data[key])
    for value in inner:
        if isinstance(value, dict | list):
            _ids_to_base64(value)


def _base64(key: str, text: Any) -> str | None:
    if text is None:
        return None
    # bytes.fromhex alone would skip white space.
    if not isinstance(text, str) or not _HEX_DIGITS.issuperset(text):
        raise ValueError(f"{key!r} is not a string of hex digits")
    try:
        return base64.b64encode(binascii.unhexlify(text)).decode("ascii")
    except binascii.Error:
        raise ValueError(f"{key!r} has an odd number of hex digits") from None


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
