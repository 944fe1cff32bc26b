"""Whether the prompts that a sequence asks with can be used, and fit the templates they fill."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from schedules.definition import SendStep
from schedules.findings import DefinitionError, Finding
from schedules.loader import Loaded
from schedules.personal import Personalize
from schedules.prompt import Prompt
from schedules.prompt_file import load_prompt
from tasks.send import locales
from tasks.send.render import Bundle

_SLOT = re.compile(r"\bwords\.(\w+)")


def prompts_of(
    loaded: Loaded, root: Path, bundles: Mapping[str, Bundle]
) -> tuple[dict[str, Prompt], list[Finding]]:
    """Read the prompt of every personalized step.

    Returns:
        Prompts by name, and what is wrong with them or with their place, in the order of the file.
    """
    found: dict[str, Prompt] = {}
    wrong: list[Finding] = []
    for index, step in enumerate(loaded.sequence.steps):
        if not isinstance(step, SendStep) or step.personalize is None:
            continue
        name = step.personalize.prompt
        at = ("steps", index, "send", "personalize", "prompt")
        if ".." in name.split("/"):
            wrong.append(loaded.located.finding(at, f"{name!r} is no name of a prompt"))
            continue
        try:
            found[name] = load_prompt(root, name)
        except DefinitionError as error:
            wrong += [
                loaded.located.finding(at, f"prompt {name!r} cannot be used: {each}")
                for each in error.findings
            ]
            continue
        if fault := misfit(step, step.personalize, found[name], bundles.get(step.template)):
            wrong.append(loaded.located.finding(at, fault))
    return found, wrong


def misfit(
    step: SendStep, personal: Personalize, prompt: Prompt, bundle: Bundle | None
) -> str | None:
    """Why that prompt cannot fill that step's template, in a sentence; None: it can."""
    for each in (prompt, *prompt.translations.values()):
        if personal.per == "segment" and (each.fields or each.names):
            return (
                f"prompt {each.name!r} declares {', '.join([*each.fields, *each.names])}: a text"
                " that is made per segment knows the segment's label alone; take them out"
            )
    if bundle is None:
        return None
    for locale in (*bundle.locales, *prompt.translations):
        if fault := _two_languages(locale, prompt, bundle):
            return fault
    asked = {slot for source in bundle.parts.values() for slot in _SLOT.findall(source)}
    if not asked:
        return (
            f"template {step.template!r} names none of the slots of prompt {prompt.name!r}: expected"
            f" {{{{ words.{next(iter(prompt.slots))} | default('…') }}}} where its words go; add it"
        )
    if unknown := sorted(asked - set(prompt.slots)):
        return (
            f"template {step.template!r} asks for words.{unknown[0]}, which prompt {prompt.name!r}"
            f" does not fill: expected one of {', '.join(prompt.slots)}; correct it"
        )
    return None


def _two_languages(locale: str, prompt: Prompt, bundle: Bundle) -> str | None:
    """Why who has that locale would get words of one language in a mail of another; None: nobody does."""
    folder = locales.choose(bundle.locales, locale)
    words = prompt.of(locale)
    spoken = locales.language_of(folder) if folder is not None else prompt.language
    if spoken == words.language:
        return None
    for path, source in bundle.parts.items():
        head, _, rest = path.partition("/")
        mine = head == folder if folder is not None else not rest or head not in bundle.locales
        if not mine or not _SLOT.search(source):
            continue
        if folder is None:
            return (
                f"prompt {words.name!r} is in {words.language}, and its words would stand in"
                f" {bundle.file(path)}, which everybody gets: expected a folder {locale} of that mail;"
                f" make it, or take {words.name}.yaml away"
            )
        return (
            f"{bundle.file(path)} asks for words, and prompt {words.name!r} is in"
            f" {words.language}: expected the template's own words in a folder of another"
            f" language, or a prompt {prompt.name}/{folder}.yaml; take them out of it, or write that"
        )
    return None
