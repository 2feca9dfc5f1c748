"""What the commands of the terminal share: where turns are read, how failures are told, the console, the progress."""

from __future__ import annotations

import functools
import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click
from rich.console import Console
from rich.progress import Progress

from voicespan import settings
from voicespan.local.origin import Elsewhere, Local, OriginError, server_at
from voicespan.local.query import CONDITIONS, SORT_COLUMNS
from voicespan.local.reader import UnknownTurnError
from voicespan.local.schema import StoreError
from voicespan.local.store import default_database
from voicespan.local.times import moment_ns
from voicespan.local.words import NS_PER_MS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


_PIPE_WIDTH = 120
STAGES = tuple(stage for stage in SORT_COLUMNS if stage != "start")
"""What a turn has a length of."""

_Item = TypeVar("_Item")

database_option = click.option(
    "--db",
    "database",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The database; `:memory:` is one that is gone when its viewer ends.  "
    "[default: VOICESPAN_DB, else voicespan.db in the user's state directory]",
)
json_option = click.option("--json", "as_json", is_flag=True, help="JSON instead of a picture; lengths in seconds.")

_FROM = click.option(
    "--from",
    "url",
    metavar="URL",
    help="Read from a viewer (http://HOST:4318) or from Tempo (http://HOST:3200), not from the local store.",
)
_TOKEN = click.option("--token", help="What that server asks for, as a bearer token.  [default: VOICESPAN_TOKEN]")
_HEADER = click.option(
    "--header", "headers", multiple=True, metavar="NAME=VALUE", help="A header for it, such as X-Scope-OrgID=voice."
)

_OUTCOMES = ("completed", "interrupted", "error", "timeout", "no_reply", *CONDITIONS)
_TEXT_FILTERS = ("session", "outcome", "service", "model", "voice", "worker")
_TIMES = (
    click.option("--until", metavar="TIME", help="Only turns that began before that."),
    click.option("--since", metavar="TIME", help="Only turns that began then or later: 2h (ago), 2026-11-20T14:00."),
)
_FILTERS = (
    click.option("--over", type=float, metavar="MS", help="With --stage: how long it took at least."),
    click.option("--stage", type=click.Choice(STAGES), help="Only turns in which this took longer than --over."),
    click.option("--slower-than", type=float, metavar="MS", help="Only turns whose heard silence was longer."),
    click.option("--worker", help="Only turns that this worker spoke."),
    click.option("--voice", help="Only turns in this voice."),
    click.option("--model", help="Only turns that this model answered."),
    click.option("--service", help="Only turns of this service."),
    click.option("--outcome", type=click.Choice(_OUTCOMES), help="Only turns that ended so."),
    click.option("--session", help="Only turns of this session."),
)


def origin_options(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take `--db`, `--from`, `--token` and `--header`; it gets what they mean as `origin`."""

    @functools.wraps(command)
    def with_origin(
        *, database: Path | None, url: str | None, token: str | None, headers: tuple[str, ...], **options: Any
    ) -> None:
        if url is None:
            if token or headers:
                raise click.UsageError("--token and --header go with --from")
            command(origin=Local(database or default_database()), **options)
            return
        if database is not None:
            raise click.UsageError("--from and --db are two places: name one")
        token = token or settings.current().token
        told = {"Authorization": f"Bearer {token}"} if token else {}
        with errors():
            command(origin=Elsewhere(server_at(url, told | _headers(headers)), track), **options)

    for option in (_HEADER, _TOKEN, _FROM, database_option):
        with_origin = option(with_origin)
    return with_origin


def filter_options(*, times: bool) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a command take what chooses turns; it gets that as `filters`, fields of a TurnQuery."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def with_filters(
            *,
            slower_than: float | None,
            stage: str | None,
            over: float | None,
            since: str | None = None,
            until: str | None = None,
            **options: Any,
        ) -> None:
            if (stage is None) != (over is None):
                raise click.UsageError("--stage and --over go together: --stage llm --over 800")
            chosen = {name: options.pop(name) for name in _TEXT_FILTERS}
            chosen |= {"stage": stage, "over_ns": _nanoseconds(over), "slower_than_ns": _nanoseconds(slower_than)}
            try:
                chosen |= {"since_ns": since and moment_ns(since), "until_ns": until and moment_ns(until)}
            except ValueError as error:
                raise click.UsageError(str(error)) from None
            command(filters={name: value for name, value in chosen.items() if value is not None}, **options)

        for option in (*_FILTERS, *(_TIMES if times else ())):
            with_filters = option(with_filters)
        return with_filters

    return decorate


def _nanoseconds(length_ms: float | None) -> int | None:
    return None if length_ms is None else round(length_ms * NS_PER_MS)


def _headers(given: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.strip() or not (name + value).isprintable():
            raise click.UsageError(f"--header {text!r} is not NAME=VALUE")
        found[name.strip()] = value.strip()
    return found


def track(items: Iterator[_Item], total: int) -> Iterator[_Item]:
    """Yield the items, and show how many of them have come where that takes long and somebody looks."""
    with progress() as shown:
        yield from shown.track(items, total=total, description="fetching")


def progress() -> Progress:
    """Return a bar that is seen on a terminal only."""
    return Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())


@contextmanager
def errors(doing: str = "read") -> Iterator[None]:
    """End the command with status 1 and the reason where the store, the trace or what it does is not possible."""
    try:
        yield
    except (StoreError, UnknownTurnError, OriginError) as error:
        hint = ": start `voicespan ui`, then point a service at it" if "no database" in str(error) else ""
        raise click.ClickException(f"{error}{hint}") from None
    except OSError as error:
        raise click.ClickException(f"cannot {doing}: {error}") from None


def console(file: TextIO | None = None) -> Console:
    """Return the console of what a command answers."""
    # Without a terminal, rich would take 80 columns: too few for a list that is read in a file.
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else _PIPE_WIDTH
    return Console(file=file or sys.stdout, width=width)
