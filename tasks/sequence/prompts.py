"""How the prompts of a sequence come into the database: by hash, each with a pointer to its newest."""

from __future__ import annotations

from collections.abc import Mapping

from sqlalchemy import Connection, text

from schedules.definition import SendStep, Sequence
from schedules.prompt import Prompt
from tasks.errors import Permanent

SOURCE = text("""
INSERT INTO prompt_source (sha256, name, source) VALUES (:sha256, :name, CAST(:source AS jsonb))
ON CONFLICT DO NOTHING
""")
POINTER = text("""
INSERT INTO prompt AS p (name, sha256, keep_days, locales)
VALUES (:name, :sha256, :keep_days, CAST(:locales AS text[]))
ON CONFLICT (name) DO UPDATE SET sha256 = excluded.sha256, keep_days = excluded.keep_days,
    locales = excluded.locales, published_at = clock_timestamp()
WHERE (p.sha256, p.keep_days, p.locales)
    IS DISTINCT FROM (excluded.sha256, excluded.keep_days, excluded.locales)
""")


def prompt_names(sequence: Sequence) -> list[str]:
    """The prompts that its steps ask with, each once, by name."""
    return sorted(
        {s.personalize.prompt for s in sequence.steps if isinstance(s, SendStep) and s.personalize}
    )


def publish_prompts(
    connection: Connection, sequence: Sequence, prompts: Mapping[str, Prompt]
) -> None:
    """Store each prompt that a step of the sequence asks with, in every locale, in the caller's transaction.

    Raises:
        Permanent: one was not given.
    """
    for name in prompt_names(sequence):
        if name not in prompts:
            raise Permanent(
                f"sequence {sequence.key!r} was given no prompt {name!r}; make the file"
                f" templates/_prompts/{name}.yaml or correct the name"
            )
        for each in (*prompts[name].translations.values(), prompts[name]):
            values = {"name": each.name, "sha256": each.sha256}
            connection.execute(SOURCE, values | {"source": each.canonical()})
            more = {"keep_days": each.keep_days, "locales": sorted(each.translations)}
            connection.execute(POINTER, values | more)
