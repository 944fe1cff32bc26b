"""How a definition becomes what the fleet runs: an immutable version, and its templates by hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from sqlalchemy import Connection, text

from schedules.definition import SendStep, Sequence
from schedules.findings import DefinitionError
from schedules.loader import Loaded
from schedules.prompt import Prompt
from tasks.errors import Permanent
from tasks.sequence.migrate import Effect, edit, reused
from tasks.sequence.prompts import publish_prompts
from tasks.sequence.reopen import reopen

# The space of the two-argument advisory locks that publishing takes; "publ" as a number.
LOCK_SPACE = 0x7075626C

# Two publishers of one key wait for each other here, also while the sequence has no row yet.
LOCK = text("SELECT pg_advisory_xact_lock(:space, hashtext(:key))")

TOPIC = text("SELECT EXISTS (SELECT 1 FROM topic WHERE key = :topic)")
TOPICS = text("SELECT key FROM topic")

CURRENT = text("""
SELECT q.version, v.sha256 FROM sequence q
JOIN sequence_version v ON v.sequence_key = q.key AND v.version = q.version
WHERE q.key = :key FOR NO KEY UPDATE OF q
""")

# The version refers to its sequence by a deferred key, so either may be written first.
VERSION = text("""
INSERT INTO sequence_version (sequence_key, version, definition, source, sha256, templates)
VALUES (:key, :version, CAST(:definition AS jsonb), :source, :sha256, CAST(:templates AS jsonb))
""")
HISTORY = text("SELECT version, definition FROM sequence_version WHERE sequence_key = :key")
PUBLISHED = text("""
SELECT q.version, v.sha256 FROM sequence q
JOIN sequence_version v ON v.sequence_key = q.key AND v.version = q.version WHERE q.key = :key
""")
SEQUENCE = text("""
INSERT INTO sequence (key, title, stream, topic, version)
VALUES (:key, :title, :stream, :topic, :version)
ON CONFLICT (key) DO UPDATE SET title = excluded.title, stream = excluded.stream,
    topic = excluded.topic, version = excluded.version
""")

SOURCES = text("""
INSERT INTO template_source (sha256, name, parts)
SELECT sha256, name, CAST(parts AS jsonb)
FROM unnest(CAST(:hashes AS bytea[]), CAST(:names AS text[]), CAST(:parts AS text[]))
     AS r (sha256, name, parts)
ORDER BY sha256
ON CONFLICT (sha256) DO NOTHING
""")
POINTERS = text("""
INSERT INTO template AS t (name, sha256)
SELECT name, sha256 FROM unnest(CAST(:names AS text[]), CAST(:hashes AS bytea[])) AS r (name, sha256)
ORDER BY name
ON CONFLICT (name) DO UPDATE SET sha256 = excluded.sha256, updated_at = clock_timestamp()
WHERE t.sha256 <> excluded.sha256
RETURNING name
""")

# The newest, and not the first, of whom a template knows more: what is imported now is what comes.
SAMPLE = text("""
SELECT id, first_name, locale, zone, attributes FROM subscriber
WHERE stopped_at IS NULL ORDER BY id DESC LIMIT :n
""")


class Template(Protocol):
    """The sources of one mail, by value, as publishing needs them."""

    @property
    def name(self) -> str:
        """Such as ``thank-you/first``."""

    @property
    def sha256(self) -> bytes:
        """32 octets over name and parts."""

    @property
    def stored(self) -> Mapping[str, str]:
        """Path → source, files among them in base64."""


@dataclass(frozen=True, slots=True)
class Published:
    """What publishing did.

    Attributes:
        key: of the sequence.
        version: the one that new enrollments take.
        changed: whether that version is new.
        templates: names whose sources are new, first or again.
        effect: what a new version did to those who went by an older one; None for a first one, and
            for none.
    """

    key: str
    version: int
    changed: bool
    templates: tuple[str, ...] = ()
    effect: Effect | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """A subscriber to try a template on: `case` says who without an address."""

    case: str
    variables: Mapping[str, Any]
    real: bool = False


MADE_UP: tuple[Sample, ...] = (
    Sample(
        "the made-up subscriber 'full'",
        {
            "first_name": "Ada",
            "locale": "en-GB",
            "zone": "Europe/London",
            "attributes": {"last_purchase": "2026-01-31", "purchases": 3, "country": "GB"},
        },
    ),
    Sample(
        "the made-up subscriber 'minimal'",
        {"first_name": None, "locale": None, "zone": None, "attributes": {}},
    ),
    Sample(
        "the made-up subscriber 'non-ascii'",
        {
            "first_name": "Zoë Łukasz 小明",
            "locale": "ja",
            "zone": "Asia/Tokyo",
            "attributes": {"last_purchase": "2026年1月31日", "purchases": 1, "country": "日本"},
        },
    ),
)


class TooMany(Permanent):
    """An edit makes more mails due at once than `max_immediate_sends`."""


def publish(
    connection: Connection,
    loaded: Loaded,
    source: str,
    bundles: Mapping[str, Template],
    prompts: Mapping[str, Prompt] = MappingProxyType({}),
    *,
    yes: bool = False,
) -> Published:
    """Publish a definition and its templates, in the caller's transaction.

    An identical definition makes no new version, and a template may be new without one. What a new
    version does to those under way is its own `publish` section's to say; by default they go on by
    it. A mail not yet claimed takes the newest template, unless the version pins it.

    Args:
        connection: inside a transaction; concurrent publishers of the same key wait for its end.
        loaded: as the loader read it.
        source: its text, kept beside the definition.
        bundles: template name → sources; one for each that a step sends.
        prompts: name → prompt; one for each that a step's words are asked for with.
        yes: the operator knows how many mails the edit makes due at once.

    Raises:
        Permanent: its topic, the sources of a template, or a prompt are not there.
        DefinitionError: a step has the id of another deed.
        TooMany: more mails than `max_immediate_sends` would be due at once, and not `yes`; nothing
            may be committed then.
    """
    sequence = loaded.sequence
    connection.execute(LOCK, {"space": LOCK_SPACE, "key": sequence.key})
    _require_topic(connection, sequence)
    templates = _publish_templates(connection, sequence, bundles)
    publish_prompts(connection, sequence, prompts)
    pinned = _pinned(sequence, bundles)
    sha256 = _hash(sequence, pinned)
    current = connection.execute(CURRENT, {"key": sequence.key}).one_or_none()
    if current is not None and current.sha256 == sha256:
        return Published(sequence.key, current.version, False, templates)
    before = None if current is None else _before(connection, loaded, current.version)
    version = 1 if current is None else current.version + 1
    connection.execute(
        VERSION,
        {
            "key": sequence.key,
            "version": version,
            "definition": json.dumps(sequence.to_json(), ensure_ascii=False),
            "source": source,
            "sha256": sha256,
            "templates": None if pinned is None else json.dumps(pinned),
        },
    )
    connection.execute(
        SEQUENCE,
        {
            "key": sequence.key,
            "title": sequence.title,
            # Each class has the stream of its name, from the first migration on.
            "stream": sequence.class_,
            "topic": sequence.topic,
            "version": version,
        },
    )
    effect = None
    if before is not None:
        effect = _edit(connection, sequence, version, before, write=True)
        _require_room(sequence, effect, yes)
    return Published(sequence.key, version, True, templates, effect)


def preview(connection: Connection, loaded: Loaded, bundles: Mapping[str, Template]) -> Published:
    """Return what `publish` would do, by the same rules and the same numbers, and do nothing.

    Args:
        connection: inside `Database.snapshot()`.
        loaded: as the loader read it.
        bundles: as for `publish`.

    Raises:
        DefinitionError: a step has the id of another deed.
    """
    sequence = loaded.sequence
    current = connection.execute(PUBLISHED, {"key": sequence.key}).one_or_none()
    if current is None:
        return Published(sequence.key, 1, True)
    if current.sha256 == _hash(sequence, _pinned(sequence, bundles)):
        return Published(sequence.key, current.version, False)
    before = _before(connection, loaded, current.version)
    version = current.version + 1
    effect = _edit(connection, sequence, version, before, write=False)
    return Published(sequence.key, version, True, effect=effect)


def _edit(
    connection: Connection,
    new: Sequence,
    version: int,
    before: tuple[Sequence, frozenset[str]],
    *,
    write: bool,
) -> Effect:
    """What becomes of those under way, and of those who have completed."""
    effect = edit(connection, new, version, *before, write=write)
    reopen(connection, new, version, *before, effect, write=write)
    return effect


def _before(
    connection: Connection, loaded: Loaded, current: int
) -> tuple[Sequence, frozenset[str]]:
    """Return the definition that stands and the id of every step there ever was.

    Raises:
        DefinitionError: a step of the new one has the id of another deed.
    """
    history = {}
    for row in connection.execute(HISTORY, {"key": loaded.sequence.key}):
        try:
            history[row.version] = Sequence.from_json(row.definition)
        except ValueError as error:
            if row.version == current:
                raise Permanent(str(error)) from error
    found = [
        loaded.located.finding(("steps", index, "id"), message)
        for index, message in reused(history, current, loaded.sequence)
    ]
    if found:
        raise DefinitionError(found)
    ever = frozenset(step.id for each in history.values() for step in each.steps)
    return history[current], ever


def _require_room(sequence: Sequence, effect: Effect, yes: bool) -> None:
    most = sequence.publish.max_immediate_sends
    if effect.immediate_sends > most and not yes:
        raise TooMany(
            f"version {effect.version} of {sequence.key!r} would make {effect.immediate_sends} mails"
            f" due at once, and max_immediate_sends is {most}; nothing was published. Look at"
            " `dripfleet sequence plan`, then apply with --yes"
        )


def _pinned(sequence: Sequence, bundles: Mapping[str, Template]) -> dict[str, str] | None:
    """The hash of each mail, where a version pins them."""
    if sequence.publish.content != "pin":
        return None
    return {name: bundles[name].sha256.hex() for name in template_names(sequence)}


def _hash(sequence: Sequence, pinned: Mapping[str, str] | None) -> bytes:
    """What makes a version another one: its definition, and its mails where it pins them."""
    told = sequence.canonical()
    if pinned is not None:
        told += json.dumps(pinned, sort_keys=True)
    return hashlib.sha256(told.encode()).digest()


def template_names(sequence: Sequence) -> list[str]:
    """The templates that its steps send, each once, in the order of the steps."""
    return list(dict.fromkeys(s.template for s in sequence.steps if isinstance(s, SendStep)))


def topic_keys(connection: Connection) -> set[str]:
    """Every topic that there is."""
    return set(connection.execute(TOPICS).scalars())


def sample_subscribers(connection: Connection, n: int = 5) -> list[Sample]:
    """Up to `n` real subscribers, the newest first, as templates see them."""
    rows = connection.execute(SAMPLE, {"n": n})
    return [
        Sample(
            f"subscriber {row.id}",
            {
                "first_name": row.first_name,
                "locale": row.locale,
                "zone": row.zone,
                "attributes": row.attributes,
            },
            real=True,
        )
        for row in rows
    ]


def _require_topic(connection: Connection, sequence: Sequence) -> None:
    if sequence.topic is None:
        return
    if not connection.execute(TOPIC, {"topic": sequence.topic}).scalar_one():
        raise Permanent(
            f"sequence {sequence.key!r} names the topic {sequence.topic!r}, which does not exist;"
            " make it with `dripfleet sequence apply --create-topics`, or correct the name"
        )


def publish_mail(connection: Connection, bundle: Template) -> bool:
    """Publish a mail that no step sends; whether its sources are new."""
    return bool(_write(connection, [bundle]))


def _publish_templates(
    connection: Connection, sequence: Sequence, bundles: Mapping[str, Template]
) -> tuple[str, ...]:
    names = template_names(sequence)
    if missing := [name for name in names if name not in bundles]:
        raise Permanent(
            f"sequence {sequence.key!r} was given no sources for template {missing[0]!r}; make the"
            " folder or correct the name"
        )
    if not names:
        return ()
    return _write(connection, [bundles[name] for name in names])


def _write(connection: Connection, found: list[Template]) -> tuple[str, ...]:
    """Write sources and what their names stand for; the names whose sources are new."""
    names = [each.name for each in found]
    hashes = [each.sha256 for each in found]
    connection.execute(
        SOURCES,
        {
            "hashes": hashes,
            "names": names,
            "parts": [json.dumps(dict(each.stored), ensure_ascii=False) for each in found],
        },
    )
    return tuple(sorted(connection.execute(POINTERS, {"names": names, "hashes": hashes}).scalars()))
