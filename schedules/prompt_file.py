"""How a prompt file, and the ``personalize`` of a send step, are read; findings with their place."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path as FilePath
from typing import Any, Final, cast

from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

from schedules.conditions import read_expression
from schedules.durations import parse_duration
from schedules.findings import DefinitionError, Finding, Located
from schedules.locales import is_locale, is_meant, language_of
from schedules.personal import LEAD, Per, Personalize
from schedules.prompt import NAMES, Field, Prompt
from schedules.reading import SLUG, Report, Table, compose, matching

FOLDER: Final = "_prompts"
"""Below ``templates/``."""
MOST_TEXT: Final = 2000
_SLOT: Final = re.compile("[a-z][a-z0-9_]{0,30}")
_LANGUAGES: Final = ("de", "en", "es", "fr", "it", "nl", "pt")
"""Those that a text can be held against (``tasks.personalize.language``)."""


def load_prompt(root: FilePath, name: str) -> Prompt:
    """Read the prompt `name` below the templates' folder `root`, and what it is in other locales.

    ``_prompts/win-back/hello/de.yaml`` is the whole prompt for those who read German, with the slots of
    ``hello.yaml``; ``de-AT.yaml`` goes before it, as a mail's folders do.

    Raises:
        DefinitionError: it is not there, or cannot be used; carries every finding.
    """
    made = _loaded(root, name)
    others: dict[str, Prompt] = {}
    wrong: list[Finding] = []
    for path in sorted((root / FOLDER / name).glob("*.yaml")):
        if not is_locale(path.stem) and not is_meant(path.stem):
            continue
        try:
            other = _loaded(root, f"{name}/{path.stem}")
        except DefinitionError as error:
            wrong += error.findings
            continue
        if fault := _no_translation(path.stem, made, other):
            wrong.append(Finding(str(path), 1, 1, fault))
        kept = made.keep_days if other.keep_days is None else other.keep_days
        others[path.stem] = replace(other, keep_days=kept)
    if wrong:
        raise DefinitionError(wrong)
    return replace(made, translations=others)


def _no_translation(locale: str, made: Prompt, other: Prompt) -> str | None:
    """Why a prompt is not the other one in that locale, in a sentence; None: it is."""
    if not is_locale(locale):
        return (
            f"{locale}.yaml is no prompt of a locale: expected a language such as de, or de-AT with its"
            " region; rename it"
        )
    if other.language != language_of(locale):
        return (
            f"{locale}.yaml is in {other.language}: expected 'language: {language_of(locale)}', or"
            " another name"
        )
    if set(other.slots) != set(made.slots):
        return (
            f"{locale}.yaml fills {', '.join(other.slots)}: expected the slots of {made.name}.yaml,"
            f" {', '.join(made.slots)}, since one template has them all; correct it"
        )
    return None


def _loaded(root: FilePath, name: str) -> Prompt:
    path = root / FOLDER / f"{name}.yaml"
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DefinitionError(
            [
                Finding(
                    str(path),
                    1,
                    1,
                    f"prompt {name!r} cannot be read ({type(error).__name__}): expected"
                    f" the file {FOLDER}/{name}.yaml; make it or correct the name",
                )
            ]
        ) from None
    return loads_prompt(text, name, str(path))


def loads_prompt(text: str, name: str, file: str) -> Prompt:
    """Read a prompt from `text`; raises as `load_prompt`."""
    report = Report(Located(file))
    root = compose(text, file)
    if not isinstance(root, MappingNode):
        report.add(root, "the file is no mapping: expected 'task: …' at the top; start with that")
        raise DefinitionError(report.findings)
    top = Table(report, (), "the prompt", root)
    top.only(("task", "language", "fields", "names", "slots", "variants", "banned", "keep"))
    task = top.text("task", "what to write, in words", _text, required=True)
    language = top.choice("language", {each: each for each in _LANGUAGES}, required=True)
    slots = _slots(top)
    made = Prompt(
        name,
        task or "?",
        language or "en",
        slots,
        _fields(top),
        tuple(_listed(top, "names", NAMES)),
        tuple(_variants(top, slots)),
        tuple(_listed(top, "banned")),
        top.text("keep", "whole days, such as 90d", _days),
    )
    if report.findings:
        raise DefinitionError(report.findings)
    return made


def read_personalize(send: Table) -> Personalize | None:
    """Read ``personalize`` of a ``send``; None where there is none, or it is wrong."""
    table = send.table("personalize")
    if table is None:
        return None
    table.only(("prompt", "lead", "on_fail", "per", "segment"))
    expected = "a prompt such as winback/hello, a file below templates/_prompts"
    prompt = table.text("prompt", expected, matching(f"{SLUG}(/{SLUG})+"), required=True)
    lead = table.text("lead", "a duration such as 30m", parse_duration)
    table.choice("on_fail", {"template": "template"})
    per = table.choice("per", {"person": "person", "segment": "segment"}) or "person"
    segment = table.slug("segment", required=per == "segment")
    if per == "person" and "segment" in table:
        table.report.add_at(
            (*table.path, "segment"),
            f"'segment' of {table.name} has no effect: expected 'per: segment' beside it; add that"
            " or remove this",
        )
    if prompt is None:
        return None
    return Personalize(prompt, lead or LEAD, per=cast(Per, per), segment=segment)


def _text(text: str) -> str:
    if not text.strip() or len(text) > MOST_TEXT:
        raise ValueError(f"expected 1 to {MOST_TEXT} characters; shorten it")
    return text.strip()


def _days(text: str) -> int:
    match = re.fullmatch("([1-9][0-9]{0,4})d", text)
    if match is None:
        raise ValueError("expected whole days, such as 90d; correct it")
    return int(match[1])


def _slots(top: Table) -> dict[str, int]:
    table = top.table("slots", required=True)
    found: dict[str, int] = {}
    for key in table.keys if table is not None else ():
        assert table is not None
        if not _SLOT.fullmatch(key):
            table.report.add(
                table.keys[key],
                f"{key!r} is no name of a slot: expected small letters, digits and '_'; rename it",
            )
            continue
        slot = table.table(key)
        if slot is None:
            continue
        slot.only(("max",))
        if "max" not in slot:
            slot.missing("max", "the longest text of this slot, in characters")
        found[key] = slot.whole("max", 5, 1000) or 1
    if table is not None and not table.keys:
        top.report.add(table.node, "'slots' is empty: expected at least one; add it")
    return found


def _fields(top: Table) -> dict[str, Field]:
    table = top.table("fields")
    found: dict[str, Field] = {}
    for key in table.keys if table is not None else ():
        assert table is not None
        row = table.table(key)
        if row is None:
            continue
        row.only(("from", "bands", "choices", "text"))
        source = read_expression(row, "from", condition=False)
        kinds = [each for each in ("bands", "choices", "text") if each in row]
        if len(kinds) > 1:
            row.report.add(
                row.node, f"{row.name} has {' and '.join(kinds)}: expected one of them; correct it"
            )
        bands = [int(each) for each in _listed(row, "bands", number=True)]
        if bands != sorted(set(bands)):
            row.report.add(row.values["bands"], "the bounds do not ascend: sort them")
        if source is not None:
            found[key] = Field(
                source, tuple(bands), tuple(_listed(row, "choices")), row.whole("text", 1, 60)
            )
    return found


def _variants(top: Table, slots: Mapping[str, int]) -> list[dict[str, str]]:
    found = []
    for path, node in top.rows("variants", "{subject: …}"):
        row = Table(top.report, path, f"variant {int(path[-1]) + 1}", node)
        row.only(slots)
        made = {}
        for slot, longest in slots.items():
            said = row.text(slot, "a text", str, required=True)
            if said is not None and len(said) > longest:
                row.report.add(
                    row.values[slot],
                    f"{slot!r} has {len(said)} characters: expected {longest} at most; shorten it",
                )
            made[slot] = said or ""
        found.append(made)
    return found


def _listed(
    table: Table, key: str, known: tuple[str, ...] | None = None, *, number: bool = False
) -> list[str]:
    node: Any = table.values.get(key)
    if node is None:
        return []
    if not isinstance(node, SequenceNode):
        table.report.add(node, f"{key!r} of {table.name} is no list: expected '[a, b]'; write one")
        return []
    found = []
    for item in node.value:
        fit = isinstance(item, ScalarNode) and bool(item.value) and len(item.value) <= 80
        if fit and number:
            fit = re.fullmatch("-?[0-9]{1,9}", item.value) is not None
        if not fit or (known is not None and item.value not in known):
            what = "whole numbers" if number else " or ".join(known) if known else "short texts"
            table.report.add(item, f"an entry of {key!r} of {table.name}: expected {what}")
            continue
        found.append(item.value)
    return found
