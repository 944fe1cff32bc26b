"""Pages for people: `templates/_pages`, in their language, without a script, and readable by all.

A language is a file there, `de.json`; what it lacks is said in English.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Final

from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup

FALLBACK: Final = "en"
STYLE: Final = Markup(
    "body{font:1.0625rem/1.5 system-ui,sans-serif;margin:0;color:#1f2328;background:#fff}"
    "main{max-width:36rem;margin:0 auto;padding:1.5rem 1rem}h1{font-size:1.5rem;line-height:1.25}"
    "h2{font-size:1.125rem;margin-top:2rem}fieldset{border:1px solid #6b7280;border-radius:.375rem}"
    ".choice{margin:.5rem 0}input[type=checkbox]{width:1.25rem;height:1.25rem;vertical-align:-.2rem}"
    "select,button{font:inherit;padding:.625rem 1rem;min-height:2.75rem}"
    "button{border:1px solid #1f2328;border-radius:.375rem;background:#fff;color:#1f2328;cursor:pointer}"
    "button.stop{background:#8a1f11;border-color:#8a1f11;color:#fff}"
    ":focus-visible{outline:3px solid #0b57d0;outline-offset:2px}.from{margin-top:2.5rem;color:#4b5057}"
    "@media (prefers-color-scheme:dark){body{background:#16181c;color:#e8eaed}.from{color:#b6bac0}"
    "button{background:#16181c;color:#e8eaed;border-color:#e8eaed}:focus-visible{outline-color:#8ab4f8}}"
)


@cache
def words(language: str) -> Mapping[str, str]:
    """What pages say in a language; empty: it has no file."""
    found = files("templates").joinpath("_pages", f"{language}.json")
    return dict(json.loads(found.read_text(encoding="utf-8"))) if found.is_file() else {}


@cache
def languages() -> frozenset[str]:
    """Those that pages are written in."""
    names = (each.name for each in files("templates").joinpath("_pages").iterdir())
    return frozenset(name.removesuffix(".json") for name in names if name.endswith(".json"))


def language_of(locale: str | None, accepted: str) -> str:
    """The language of a page: that of the subscriber, else one that the browser asks for.

    Args:
        locale: such as `de-AT`; None where it is not known.
        accepted: the header `Accept-Language`, any text.
    """
    wanted = [locale or ""]
    weighed: list[tuple[float, str]] = []
    for part in accepted[:200].split(","):
        tag, _, weight = part.strip().partition(";q=")
        try:
            weighed.append((float(weight or 1), tag))
        except ValueError:
            continue
    wanted += [tag for weight, tag in sorted(weighed, key=lambda each: -each[0]) if weight > 0]
    for tag in wanted:
        language = tag.lower().replace("_", "-").partition("-")[0]
        if language in languages():
            return language
    return FALLBACK


def page(name: str, language: str, *, title: str, sender: str, **values: Any) -> str:
    """One page as HTML; `title` is a key of the words."""
    said = words(language)

    def say(key: str) -> str:
        return said.get(key) or words(FALLBACK)[key]

    template = _environment().get_template(name)
    return template.render(
        lang=language, say=say, title=title, sender=sender, style=STYLE, **values
    )


@cache
def _environment() -> Environment:
    folder = files("templates").joinpath("_pages")

    def load(name: str) -> str:
        return folder.joinpath(name).read_text(encoding="utf-8")

    return Environment(
        loader=FunctionLoader(load),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
