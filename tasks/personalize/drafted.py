"""The files of a drafted sequence: its YAML, and a folder a mail. Pure.

What every mail owes its reader is built here and not left to anybody's words: the greeting, the text
part, the language of the page, the footer with the postal address and the way out.
"""

from __future__ import annotations

import html
import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from tasks.personalize.drafted_prompts import slots_of
from tasks.personalize.drafted_steps import ARMS, steps

if TYPE_CHECKING:
    from tasks.personalize.draft import Draft

_HELLO: Final = {
    "de": "Hallo", "en": "Hello", "es": "Hola", "fr": "Bonjour", "it": "Ciao", "nl": "Hallo",
    "pt": "Olá",
}  # fmt: skip
_STOP: Final = {
    "de": "Keine weiteren Mails",
    "en": "Stop these mails",
    "es": "No recibir más correos",
    "fr": "Ne plus recevoir ces mails",
    "it": "Non ricevere più queste mail",
    "nl": "Geen mails meer",
    "pt": "Não receber mais estes e-mails",
}
LANGUAGES: Final = tuple(_HELLO)

_PAGE: Final = """<!DOCTYPE html>
<html lang="{lang}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
</head>
<body style="margin:0;padding:24px 16px;background-color:#ffffff;color:#1f2328;font-family:Arial,sans-serif;">
<div style="display:none;max-height:0;overflow:hidden;">{preheader}</div>
{body}
<p>{{{{ sender.name }}}}<br>{{{{ sender.postal_address }}}}</p>
<p><a href="{{{{ unsubscribe.mailto }}}}" style="color:#0b57a4;">{stop}</a></p>
</body>
</html>
"""
_EXTENDED: Final = """{{% extends "_base/layout.html" %}}
{{% block lang %}}{lang}{{% endblock %}}
{{% block title %}}{title}{{% endblock %}}
{{% block preview %}}{preheader}{{% endblock %}}
{{% block body %}}
{body}
{{% endblock %}}
"""


def sequence_file(draft: Draft, outline: Mapping[str, Any]) -> str:
    """The YAML of the sequence; the brief stands on top as a comment."""
    brief = [f"#   {part}" for each in draft.brief.splitlines() for part in _wrapped(each, 92)]
    lines = [
        "# Drafted from a brief; read every mail before it goes.",
        *brief,
        "",
        f"key: {draft.key}",
        f"title: {_quoted(outline['title'])}",
        "class: marketing",
        f"topic: {draft.topic}",
        f"timezone: {{source: subscriber, fallback: {draft.zone}}}",
        "entry: {manual: true}",
    ]
    if draft.goal:
        lines += [
            f"exit:\n  - {{event: {draft.goal}, reason: converted}}",
            f"goal: {{event: {draft.goal}, window: 21d}}",
        ]
    return "\n".join([*lines, "steps:", *steps(draft, outline)]) + "\n"


def template_files(
    draft: Draft, outline: Mapping[str, Any], bases: frozenset[str]
) -> dict[str, str]:
    """The templates, path below the folder of templates → source.

    Args:
        draft: what was asked for.
        outline: what was answered.
        bases: which of ``layout.html`` and ``footer.txt`` there are in ``_base``.
    """
    made = {}
    for name, mail in _mails(draft, outline):
        slots = slots_of(draft, name)
        folder = f"{draft.key}/{name}"
        subject = literal(mail["subject"])
        made[f"{folder}/subject.txt"] = f"{_slot('subject', subject, slots)}\n"
        made[f"{folder}/body.txt"] = _text(draft, mail, "footer.txt" in bases, slots)
        made[f"{folder}/body.html"] = _html(draft, mail, "layout.html" in bases, slots)
    return made


def _mails(draft: Draft, outline: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The folders, and what they are made of: an arm is the first mail under another subject."""
    for number, mail in enumerate(outline["mails"], 1):
        yield f"mail-{number}", mail
    for arm, subject in zip(ARMS[1:], outline.get("subjects", ()), strict=False):
        yield f"mail-1-{arm}", {**outline["mails"][0], "subject": subject}
    if "branch" in outline:
        yield f"mail-{draft.mails}-branch", outline["branch"]


def _slot(name: str, own: str, slots: tuple[str, ...]) -> str:
    """A model's words for a slot, else the mail's own."""
    if name not in slots:
        return own
    said = f"words.{name}"
    return f"{{% if {said} is defined %}}{{{{ {said} }}}}{{% else %}}{own}{{% endif %}}"


def _text(draft: Draft, mail: Mapping[str, Any], footer: bool, slots: tuple[str, ...]) -> str:
    first, *others = (literal("\n".join(_wrapped(each, 72))) for each in mail["paragraphs"])
    parts = [_hello(draft.language), _slot("opening", first, slots), *others]
    if draft.link:
        parts.append(f"{literal(mail['call_to_action'])}:\n{literal(draft.link)}")
    else:
        parts.append(f"{literal(mail['call_to_action'])}.")
    parts.append("{{ sender.name }}")
    end = (
        '{% include "_base/footer.txt" %}\n'
        if footer
        else "\n-- \n{{ sender.name }}\n{{ sender.postal_address }}\n"
        f"{_STOP[draft.language]}: {{{{ unsubscribe.mailto }}}}\n"
    )
    return "\n\n".join(parts) + "\n" + end


def _html(draft: Draft, mail: Mapping[str, Any], layout: bool, slots: tuple[str, ...]) -> str:
    first, *others = (_page(each) for each in mail["paragraphs"])
    rows = [f"<h1>{_page(mail['heading'])}</h1>", f"<p>{_hello(draft.language)}</p>"]
    rows += [f"<p>{each}</p>" for each in (_slot("opening", first, slots), *others)]
    call = _page(mail["call_to_action"])
    if draft.link:
        link = literal(html.escape(draft.link))
        rows.append(f'<p><a href="{link}" style="color:#0b57a4;">{call}</a></p>')
    else:
        rows.append(f"<p>{call}.</p>")
    rows.append("<p>{{ sender.name }}</p>")
    return (_EXTENDED if layout else _PAGE).format(
        lang=draft.language,
        title=_page(mail["subject"]),
        preheader=_page(mail["preheader"]),
        body="\n".join(rows),
        stop=_STOP[draft.language],
    )


def _hello(language: str) -> str:
    name = "{% if subscriber.first_name %} {{ subscriber.first_name }}{% endif %}"
    return f"{_HELLO[language]}{name},"


def _page(text: str) -> str:
    return literal(html.escape(text, quote=False))


def literal(text: str) -> str:
    """A text that means itself in a template: no brace of it begins anything."""
    return text.replace("{", "{{ '{' }}")


def _quoted(text: str) -> str:
    # A JSON text is a double-quoted scalar of YAML 1.2 too.
    return json.dumps(text, ensure_ascii=False)


def _wrapped(text: str, width: int) -> list[str]:
    clean = "".join(c if c.isprintable() else " " for c in text)
    return textwrap.wrap(clean, width, break_long_words=False, break_on_hyphens=False)
