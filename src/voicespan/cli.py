"""The command line: `voicespan COMMAND`. A command's module is imported when the command is used."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

import click

from voicespan.version import __version__


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a command is, what `voicespan --help` says about it, and the extra that brings what it imports."""

    target: str
    help: str
    extra: str | None = None


COMMANDS = {
    "run": Entry("voicespan.run:run", "Run a command with voicespan switched on."),
    "doctor": Entry("voicespan.doctor.command:doctor", "Say whether a service started here is seen, and what to do."),
    "stages": Entry("voicespan.stagemap.command:stages", "Check a stage map (VOICESPAN_STAGES).", "stages"),
    "turns": Entry("voicespan.local.commands:turns", "List turns: slow ones, or by stage, outcome, session.", "ui"),
    "show": Entry("voicespan.local.commands:show", "Draw one turn as a waterfall in the terminal.", "ui"),
    "compare": Entry("voicespan.local.comparison:compare_turns", "Say what changed between two runs or times.", "ui"),
    "score": Entry("voicespan.local.scoring:score_turn", "Say how good a turn was, by its trace id.", "ui"),
    "export": Entry("voicespan.local.commands:export_file", "Write turns as a file: OTLP JSON, or CSV.", "ui"),
    "import": Entry("voicespan.local.commands:import_files", "Take such files into the local store.", "ui"),
    "ui": Entry("voicespan.local.commands:ui", "Receive turns on this machine and show them.", "ui"),
    "stack": Entry("voicespan.stack.command:stack", "Run the back ends on this machine.", "stack"),
    "slo": Entry("voicespan.stack.slo:slo", "Write the rules that hold a service to its objectives.", "stack"),
    "latency-test": Entry(
        "voicespan.latency.command:latency_test", "Call an agent many times, and say how long callers wait.", "demo"
    ),
    "load": Entry("voicespan.load.command:load", "Hold simulated calls, and say what telemetry costs."),
    "demo": Entry("voicespan.demo.command:demo", "Run the reference voice agent.", "demo"),
}


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one only to run it or to print its own help."""

    def __init__(self, *args: object, entries: dict[str, Entry] | None = None, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.entries = dict(entries or {})

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which they were declared."""
        return [*self.entries, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command; exit with status 2 when the extra that it needs is not installed."""
        entry = self.entries.get(cmd_name)
        if entry is None:
            return super().get_command(ctx, cmd_name)
        return _load(cmd_name, entry)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in self.entries.items()])


def _load(name: str, entry: Entry) -> click.Command:
    module, _, attribute = entry.target.partition(":")
    try:
        command = getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if entry.extra is None or (error.name or "").split(".")[0] == "voicespan":
            raise
        click.echo(
            f"voicespan {name} needs: pip install 'voicespan[{entry.extra}]' (no module {error.name!r})", err=True
        )
        raise SystemExit(2) from None
    assert isinstance(command, click.Command)
    return command


@click.group(cls=LazyGroup, entries=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="voicespan")
def main() -> None:
    """Traces of voice conversations: one trace for every utterance."""
