"""`dripfleet`, the command line.

Every command imports what it needs when it runs: `dripfleet --help` loads no database and no Celery.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

import typer
from typer.exceptions import TyperException

from workers.cli.render import ExitCode, say

app = typer.Typer(
    name="dripfleet",
    help="A distributed worker fleet that runs lifecycle email sequences.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

COMMANDS = (
    "demo",
    "fleet",
    "sequence",
    "schedules",
    "stream",
    "relay",
    "inbound",
    "key",
    "topic",
    "webhooks",
    "subscribers",
    "events",
    "segment",
    "experiment",
    "quantum",
    "words",
    "content",
    "status",
    "message",
    "churn",
    "audit",
    "quarantine",
    "chaos",
)
"""Modules of this package whose `register(app)` adds their commands, in the order of `--help`."""

LONG_LIVED = ("worker", "beat")
"""Commands of `fleet` whose process lives for weeks: it takes in no other, 4 MB less of it."""

for _name in ("fleet",) if sys.argv[1:2] and sys.argv[1] in LONG_LIVED else COMMANDS:
    import_module(f"workers.cli.{_name}").register(app)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line; every fault becomes one sentence on stderr and an `ExitCode`.

    DRIPFLEET_DEBUG=1 shows the traceback instead.
    """
    try:
        # Without standalone mode an exit code comes back as a value, and faults as exceptions.
        code = app(arguments, prog_name="dripfleet", standalone_mode=False)
    except TyperException as error:
        return _usage(error)
    except (KeyboardInterrupt, typer.Abort):
        return ExitCode.INTERRUPTED
    except Exception as error:
        if os.environ.get("DRIPFLEET_DEBUG"):
            raise
        from workers.cli.verdict import verdict

        fault, sentence = verdict(error)
        say(f"dripfleet: {sentence}", style="red")
        return fault
    return code if isinstance(code, int) else ExitCode.OK


def _usage(error: TyperException) -> int:
    """A command line that was not understood: what is wrong with it, and where help is."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "dripfleet"
    # Typer has printed the help by itself when no arguments were given.
    if type(error).__name__ != "NoArgsIsHelpError":
        sentence = error.format_message().rstrip(".")
        say(f"{command}: {sentence}; see `{command} --help`", style="red")
    return ExitCode.USAGE
