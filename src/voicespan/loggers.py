"""Where VOICESPAN_LOG_FORMAT=json asks for it: the lines of a service that sets up logging in its own way, as JSON.

A service may give its loggers handlers of their own (`dictConfig`, uvicorn), or log with structlog or loguru. Whatever
of that writes to stdout or stderr writes our lines, and what it has written our own handler does not write again.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

import wrapt

from voicespan import logs
from voicespan.guard import guarded, swallowed

if TYPE_CHECKING:
    from types import ModuleType

_followed: set[str] = set()
_formatter = logs.RedactingFormatter()


@guarded
def follow(ours: logging.Handler) -> None:
    """Begin, once in a process; `ours` is the handler of the root logger that `logs.setup_logging` has made."""
    if "logging" not in _followed:
        _followed.add("logging")
        ours.addFilter(_is_new)
        wrapt.wrap_function_wrapper(logging, "StreamHandler.format", _Format(ours))
        wrapt.wrap_function_wrapper(logging, "Logger.addHandler", _Order(ours))
        wrapt.register_post_import_hook(follow_structlog, "structlog")
        wrapt.register_post_import_hook(follow_loguru, "loguru")


def _is_new(record: logging.LogRecord) -> bool:
    return logs.WRITTEN not in record.__dict__


class _Format:
    """Formats for handlers of anybody's that write to stdout or stderr."""

    def __init__(self, ours: logging.Handler) -> None:
        self._ours = ours

    def __call__(self, wrapped: Any, handler: Any, args: Any, kwargs: Any) -> Any:
        try:
            if handler is not self._ours and handler.stream in (sys.stdout, sys.stderr):
                record = args[0] if args else kwargs["record"]
                record.__dict__[logs.WRITTEN] = True
                if not isinstance(handler.formatter, logs.JSONFormatter):
                    return _formatter.format(record)
        except Exception as error:
            swallowed("log format", error)
        return wrapped(*args, **kwargs)


class _Order:
    """Keeps our handler the last one of the root logger, so that it knows what the others have written."""

    def __init__(self, ours: logging.Handler) -> None:
        self._ours = ours

    def __call__(self, wrapped: Any, logger: Any, args: Any, kwargs: Any) -> Any:
        result = wrapped(*args, **kwargs)
        try:
            if logger is logging.root and self._ours in logger.handlers[:-1]:
                logger.handlers = [each for each in logger.handlers if each is not self._ours] + [self._ours]
        except Exception as error:
            swallowed("log handlers", error)
        return result


@guarded
def follow_loguru(module: ModuleType) -> None:
    """Write loguru's messages as lines on stdout; what it writes to stderr by itself stays."""
    if "loguru" not in _followed:
        _followed.add("loguru")
        module.logger.add(logs.loguru_sink, catch=True)


@guarded
def follow_structlog(module: Any) -> None:
    """Put `processor` before the renderer: of structlog's defaults, and of what the service configures."""
    if "structlog" not in _followed:
        _followed.add("structlog")
        known = module._config._CONFIG  # noqa: SLF001 - `configure` would count as the service's own
        known.default_processors = _with_ours(known.default_processors)
        for name in ("configure", "configure_once"):
            wrapt.wrap_function_wrapper(module, name, _configure)


def _configure(wrapped: Any, _module: Any, args: Any, kwargs: Any) -> Any:
    try:
        if args and args[0]:
            args = (_with_ours(args[0]), *args[1:])
        elif kwargs.get("processors"):
            kwargs = {**kwargs, "processors": _with_ours(kwargs["processors"])}
    except Exception as error:
        swallowed("structlog", error)
    return wrapped(*args, **kwargs)


def _with_ours(processors: Any) -> list[Any]:
    """Return processors whose last one, if it renders, gets the fields of a line, and writes JSON."""
    from structlog import dev
    from structlog import processors as own

    *before, last = processors
    if logs.processor in before or not isinstance(last, dev.ConsoleRenderer | own.JSONRenderer | own.KeyValueRenderer):
        return list(processors)
    renderer = last if isinstance(last, own.JSONRenderer) else own.JSONRenderer()
    return [*before, logs.processor, renderer]
