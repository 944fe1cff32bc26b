"""Rules go into the elements of a template once, and its Jinja stays as it was."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tasks import stylesheet
from tasks.errors import Permanent
from tasks.personalize.review import review
from tasks.send.inlining import inlined
from tasks.send.render import Bundle, bundle_from_folder, compile
from tasks.send.sandbox import Sandbox

ROOT = Path(__file__).parents[2]
BASE = """<!DOCTYPE html><html lang="en"><head>{% block head %}<style>
/* { a comment } */
p { margin: 0 0 16px }
.a { color: red; font-family: "Segoe UI", sans-serif }
.b { color: green; top: 0 }
.card td { padding: 1px }
a:hover, .link { color: blue }
li + li { margin: 0 }
@media (prefers-color-scheme: dark) { p { color: #fff } }
</style>{% endblock %}</head>
<body>{% block body %}<p class="a">base</p>{% endblock %}</body></html>"""
BODY = """{% extends "_base/l.html" %}
{% macro button(to) %}<a class="link" href="{{ to }}">go</a>{% endmacro %}
{% block body %}
{{ super() }}
{% if subscriber.first_name %}<p class="a">Hi {{ "}}" ~ subscriber.first_name }}</p>
{% else %}<p class="b" style="color: {{ 'black' }}">Hello</p>{% endif %}
<div class="card"><table role="none">{% for row in subscriber.attributes.rows %}
<tr><td width={{ row }}>{{ row }}{# a comment > #}</td></tr>{% endfor %}</table></div>
{% raw %}<p class="a">{{ as it is }}</p>{% endraw %}
<!-- <p class="a">nobody sees it</p> -->{{ button("https://example.com/?a=1&b=2") }}
<img alt="x > y" class='a' src="https://example.com/x.png" />
{% endblock %}"""


def mail(body: str = BODY, base: str = BASE) -> Bundle:
    parts = {"subject.txt": "s", "body.txt": "t", "body.html": body, "_base/l.html": base}
    return Bundle("test/mail", inlined("test/mail", parts))


def shown(bundle: Bundle, **subscriber: Any) -> str:
    made = compile(bundle).render(
        {
            "subscriber": {"first_name": None, "attributes": {"rows": [1, 2]}, **subscriber},
            "sender": {},
        }
    )
    assert made.html is not None
    return made.html


def test_every_branch_has_its_own_styles_and_is_still_a_branch() -> None:
    ada, nobody = shown(mail(), first_name="Ada"), shown(mail())
    assert (
        """<p class="a" style="margin:0 0 16px;color:red;font-family:&quot;Segoe UI&quot;"""
        in ada.replace("'Segoe UI'", "&quot;Segoe UI&quot;")
    )
    assert "Hi }}Ada" in ada and "Hello" not in ada
    assert '<p class="b" style="margin:0 0 16px;top:0;color: black">Hello</p>' in nobody
    assert nobody.count('<td width=1 style="padding:1px">') == 1
    assert nobody.count('<td width=2 style="padding:1px">') == 1
    assert '<p class="a">{{ as it is }}</p>' in nobody and '<!-- <p class="a">' in nobody


def test_what_was_rendered_before_and_after_differs_in_styles_alone() -> None:
    plain = Bundle(
        "test/mail",
        {"subject.txt": "s", "body.txt": "t", "body.html": BODY, "_base/l.html": BASE},
    )

    def bare(page: str) -> str:
        page = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
        return re.sub(r"""\s*(?:style=(?:"[^"]*"|'[^']*')|/(?=>))\s*""", "", page).replace(" ", "")

    for name in ("Ada", None):
        assert bare(shown(mail(), first_name=name)) == bare(shown(plain, first_name=name))


def test_jinja_is_as_it_was_token_by_token_and_line_by_line() -> None:
    def jinja(source: str) -> list[tuple[int, str]]:
        tokens = Sandbox({}).lex(source)
        return [
            (line, said)
            for line, kind, said in tokens
            if kind != "data" and not kind.startswith("comment")
        ]

    found = mail()
    for path, source in (("body.html", BODY), ("_base/l.html", BASE)):
        assert jinja(found.parts[path]) == jinja(source)
        assert found.parts[path].count("\n") == source.count("\n"), "faults keep their lines"


def test_what_depends_on_the_reader_stays_and_goes_before_what_was_written_in() -> None:
    page = shown(mail())
    (rules,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    assert "@media (prefers-color-scheme: dark){p{color:#fff !important}}" in rules
    assert "a:hover{color:blue !important}" in rules and "li + li{margin:0 !important}" in rules
    assert ".a{" not in rules and ".link{" not in rules
    assert 'class="link" href="https://example.com/?a=1&amp;b=2" style="color:blue"' in page or (
        'class="link" href="https://example.com/?a=1&b=2" style="color:blue"' in page
    )


def test_an_element_whose_class_is_an_expression_is_left_to_its_rules() -> None:
    body = '{% extends "_base/l.html" %}{% block body %}<p class="{{ \'a\' }}">x</p>{% endblock %}'
    page = shown(mail(body))
    assert '<p class="a">x</p>' in page
    assert ".a{color: red;" in page, "so no rule may go"


def test_a_template_without_rules_is_not_changed() -> None:
    parts = {"subject.txt": "s", "body.txt": "t", "body.html": "<p   class=a>{{ x }}"}
    assert inlined("test/mail", parts) == parts


def test_a_base_that_would_look_different_in_two_places_is_named() -> None:
    base = "<p>{{ x }}</p>"
    body = (
        "<style>.a p { top: 0 }</style><div class='a'>{% include '_base/x.html' %}</div>\n"
        "{% include '_base/x.html' %}"
    )
    parts = {"subject.txt": "s", "body.txt": "t", "body.html": body, "_base/x.html": base}
    with pytest.raises(Permanent, match=r"_base/x\.html line 1: <p> would look different"):
        inlined("test/mail", parts)


@pytest.mark.parametrize(
    "body", ["{% block a %}", "{% include '_base/l.html' %}", "<p {{ a }}>", "<"]
)
def test_odd_sources_end_in_a_template_or_in_its_own_fault(body: str) -> None:
    parts = {"subject.txt": "s", "body.txt": "t", "body.html": body, "_base/l.html": BASE}
    made = inlined("test/mail", parts)
    assert set(made) == set(parts)


def test_the_same_sources_give_the_same_template_in_every_process() -> None:
    code = (
        "from pathlib import Path; from tasks.send.render import bundle_from_folder;"
        "print(bundle_from_folder(Path('templates'), 'win-back/nudge').sha256.hex())"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    here = bundle_from_folder(ROOT / "templates", "win-back/nudge").sha256.hex()
    assert told.stdout.strip() == here
    again = inlined(
        "win-back/nudge", bundle_from_folder(ROOT / "templates", "win-back/nudge").parts
    )
    assert "card" in again["_base/layout.html"]


def test_rules_are_read_as_css_has_them() -> None:
    css = '@import "x;y.css"; p{background:url("a;b}")} /* } */ @font-face{src:x} .q{} .broken{a'
    assert [rule.head for rule in stylesheet.rules(css)] == [
        '@import "x;y.css"', "p", "@font-face", ".q"
    ]  # fmt: skip
    plain, stay = stylesheet.parted("a[href^='https:']{top:0} p::first-line, p{left:0}")
    assert [rule.head for rule in plain] == ["a[href^='https:']", "p"]
    assert [str(rule) for rule in stay] == ["p::first-line{left:0 !important}"]
    assert stylesheet.in_the_dark("<p>x</p>") is None


@pytest.mark.parametrize(
    "piece",
    ["<div>", "<div></x>", "<div><table><tr><td></div>", "<b><div></b>", "<p><div>", "<span/>"],
)
def test_a_page_that_would_take_the_process_down_is_not_inlined(piece: str) -> None:
    page = "<style>div{top:0}</style>" + piece * 600
    with pytest.raises(stylesheet.TooDeep, match="close what is open"):
        stylesheet.inline(page)
    assert stylesheet.as_read(page) == page
    with pytest.raises(Permanent, match=r"the rules of body\.html cannot be applied"):
        inlined("test/mail", {"body.html": page})
    assert ("markup", "error") in {(n.check, n.severity) for n in review("Hi", "Hi", page).notes}


@pytest.mark.parametrize("piece", ["<p>one", "<li>one", "<br>", "<div><p>one</div>", "<b>one</b>"])
def test_a_long_page_is_no_deep_one(piece: str) -> None:
    assert stylesheet.depth(f"<table><tr><td><ul>{piece * 2000}</ul></table>") < 10
