"""`dripfleet sequence schema`: the JSON Schema of sequence files, for editors."""

from __future__ import annotations

import json
import sys

import typer


def register(sequence: typer.Typer) -> None:
    """Add `schema` to the commands of `dripfleet sequence`."""
    sequence.command(
        epilog="Examples:\n\ndripfleet sequence schema",
    )(schema)


def schema() -> None:
    """Print the JSON Schema of sequence files, made from what the reader of this release takes.

    An editor with a YAML language server completes and checks by it: keep the output in a file,
    and
    put `# yaml-language-server: $schema=sequence.schema.json` on top of a sequence.
    """
    from schedules.schema import sequence_schema

    sys.stdout.write(json.dumps(sequence_schema(), ensure_ascii=False, indent=2) + "\n")
