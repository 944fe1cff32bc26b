"""A mail laid out beforehand is the mail rendered as a whole, octet for octet."""

from __future__ import annotations

import email
import email.policy
import re
from datetime import UTC, datetime
from email.message import EmailMessage
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.errors import Permanent
from tasks.send.content import Content, Facts, Sender, boundary_of, compose
from tasks.send.quoted import Fixed, encoded, encoded_pieces
from tasks.send.render import Bundle, bundle_from_folder, compile, compiled
from tasks.send.skeleton import Skeleton

TEMPLATES = Path(__file__).parents[2] / "templates"
KEY = sha256(b"effect").digest()
SENDER = Sender("Müller & Söhne", "shop@example.com", "1 Example Street\nTown", "off@example.com")
SEEN = {"name": SENDER.name, "postal_address": SENDER.postal_address}
FACTS = Facts(
    "<x@example.com>", "ada@example.com", datetime(2026, 3, 1, tzinfo=UTC), KEY, "k1.AAAA.bbbb"
)

HARD = [
    "Zoë", "שלום", "مرحبا", "👩🏽‍🚀", "日本語", "a" * 200, "é" * 100, " ", "  \n", "\t\n", "\n", "\n\n",
    "\r", "\r\n", "a\rb", ".", "\n.\n", "..", "=", "=3D", "=?utf-8?q?x?=", "<b>&\"'", "--=_x", "",
    boundary_of(KEY), f"\n--{boundary_of(KEY)}--\n", "\0", "\x85", "\u2028", "From me\n", "-- \n",
    "a\ud800",
]  # fmt: skip
WORDS = st.lists(
    st.sampled_from(HARD) | st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    max_size=6,
).map("".join)
PARAGRAPH = (
    '<p style="margin:0 0 16px;">Thank you for your order, it means a lot to a shop of our size,'
    " as long lines like this one are not seldom in mails.</p>\nShort.\nGrüße.\n"
)


def both(
    bundle: Bundle, variables: dict[str, Any], sender: Sender = SENDER
) -> tuple[Content | str, Content | str]:
    """What the plain way and the skeleton make of it: a mail, or the sentence of the fault."""
    made: list[Content | str] = []
    mail, skeleton = compiled(bundle), Skeleton(bundle, variables["sender"])
    for laid in (False, True):
        try:
            if laid:
                made.append(skeleton.compose(variables, message=FACTS, sender=sender))
            else:
                made.append(compose(mail.render(variables), message=FACTS, sender=sender))
        except Permanent as fault:
            # On which of the lines of a circle the stack ends hangs on where it began.
            made.append(re.sub(r" line \d+: it calls itself", ": it calls itself", str(fault)))
    return made[0], made[1]


def variables(
    first_name: object = "Ada", sender: dict[str, str] = SEEN, **attributes: object
) -> dict[str, Any]:
    return {
        "subscriber": {"first_name": first_name, "locale": "en", "attributes": attributes},
        "sender": sender,
        "unsubscribe": {"mailto": "mailto:off@example.com?subject=unsubscribe%20k1.AAAA.bbbb"},
    }


def body(octets: bytes, kind: str) -> str:
    read = email.message_from_bytes(octets, policy=email.policy.default)
    assert isinstance(read, EmailMessage)
    part = read.get_body((kind,))
    assert part is not None
    content: str = part.get_content()
    return content.replace("\r\n", "\n")


# The pieces of a part


@given(pieces=st.lists(st.booleans().flatmap(lambda fixed: st.tuples(st.just(fixed), WORDS))))
@settings(max_examples=150, deadline=None)
def test_a_part_in_pieces_is_the_part_of_the_whole_text(pieces: list[tuple[bool, str]]) -> None:
    given_pieces = [
        Fixed(f"{text}{PARAGRAPH}{text}") if fixed and "\ud800" not in text else text
        for fixed, text in pieces
    ]
    try:
        whole = encoded("".join(given_pieces), boundary_of(KEY))
    except Permanent as fault:
        with pytest.raises(Permanent) as caught:
            encoded_pieces(given_pieces, boundary_of(KEY))
        assert str(caught.value) == str(fault)
    else:
        assert encoded_pieces(given_pieces, boundary_of(KEY)) == whole


def test_plain_lines_stay_plain_in_pieces_too() -> None:
    lines = Fixed("first\n" + "an ordinary line of a letter\n" * 9)
    assert lines.worthwhile
    assert encoded_pieces([lines, "last\n"], "=_x").encoding == "7bit"
    assert encoded_pieces([lines, "trailing \n"], "=_x").encoding == "quoted-printable"
    assert encoded_pieces([lines, "=_x\n"], "=_x").encoding == "quoted-printable"


# Whole mails

SNIPPETS = [
    PARAGRAPH, PARAGRAPH * 3, "\n", " ", "x", "ä\n",
    "{{ subscriber.first_name | default('you', true) }}", "{{ subscriber.first_name }}",
    "{{ subscriber.attributes.a }}", "{{ subscriber.attributes.none }}",
    "{{ subscriber.attributes.a | default('-') | upper }}", "{{ subscriber['attributes'].n + 1 }}",
    "{{ sender.name }}", "{{ sender.name | upper | truncate(5) }}", "{{ sender.nobody }}",
    "{{ sender.name ~ ', ' ~ subscriber.first_name }}", "{{ unsubscribe.mailto }}\n",
    "{{ '{:,.2f} {}'.format(subscriber.attributes.n, 'x') }}", "{{ '{:d}'.format('x') }}",
    "{{ '{} {}'.format(1) }}", "{{ '{:>4000}|'.format('ü') }}", "{{ '{0}'.format(sender.name) }}",
    "{{ '%s' % subscriber.first_name }}", "{{ '<b>' | safe }}{{ '<b>' }}", "{{ '\r' }}",
    "{% if subscriber.attributes.n > 2 %}\n{0}\n{% else %}few{% endif %}\n",
    "{% if sender.name %}\n{0}\n{% elif subscriber.first_name %}{{ sender.name }}\n{% endif %}",
    "{% for line in sender.postal_address.splitlines() %}{{ loop.index }} {{ line }}<br>\n{% endfor %}",
    "{% for i in range(subscriber.attributes.n) %}\n{0}{{ sender.name }}{{ i }}\n{% endfor %}",
    "{% for i in [] %}{% else %}{{ sender.name }}{% endfor %}",
    "{% for i in range(4) if i is odd and subscriber.first_name %}{{ i }}{{ loop.last }}{% endfor %}",
    "{% for i in [1, [2, 3]] recursive %}{{ i if i is number else loop(i) }}{% endfor %}",
    "{% for k, v in subscriber.attributes.items() %}{{ k }}={{ v }}\n{% endfor %}",
    "{{ sender.name if subscriber.first_name else subscriber.attributes.a }}",
    "{% if subscriber.first_name %}{% set name = 'x' %}{% endif %}{{ name | default('-') }}",
    "{% block own %}{{ sender.name }}{% endblock %}", "{% include ['_base/f.KIND'] %}",
    "{% include ['_base/f.KIND'] without context %}", "{% include '_base/f.KIND' ignore missing %}",
    "{% for sender in ['x'] %}{{ sender }}{% endfor %}",
    "{% set name = subscriber.first_name %}{{ name }}", "{{ name | default('unset') }}",
    "{% set sender = {'name': 'other'} %}{{ sender.name }}",
    "{% set x %}\n{0}{{ sender.name }}\n{% endset %}{{ x }}",
    "{% macro m(who) %}\n{0}{{ who }}{{ sender.name }}\n{% endmacro %}{{ m(1) }}{{ m('&') }}",
    "{% macro sender(n) %}{{ n }}{% endmacro %}{{ sender(2) }}",
    "{% filter upper %}\n{0}{{ sender.name }}\n{% endfilter %}",
    "{% with sender = subscriber %}{{ sender.first_name }}{% endwith %}",
    "{% with x = sender.name %}{{ x }}{% endwith %}",
    "{% call m(3) %}{{ sender.name }}{% endcall %}", "{% raw %}{{ x }}{% endraw %}",
    "{% include '_base/f.KIND' %}", "{% for i in [1, 2] %}{% include '_base/f.KIND' %}{% endfor %}",
    "{% include '_base/f.KIND' without context %}", "{% include '_base/loop.KIND' %}",
    "{% import '_base/m.KIND' as mm %}{{ mm.b('x') }}", "{% import '_base/m.KIND' as sender %}",
    "{% from '_base/m.KIND' import b as button with context %}{{ button(sender.name) }}",
    "{{ self.title() }}", "{{ super() }}", "{{ cycler('a', 'b').next() }}", "{{ 1 / 0 }}",
]  # fmt: skip
BASES = {
    "f": "\n-- \n{{ sender.name }} {{ i | default('') }} {{ name | default('no name') }}\n" + PARAGRAPH,
    "loop": "{{ loop.index }}",
    "m": "{% macro b(x) %}<a>{{ x }}</a>{{ sender }}{% endmacro %}{{ sender.name }}",
    "layout": "<top {{ sender.name }}>\n{% block title %}{{ sender.name }}{% endblock %}\n" + PARAGRAPH
    + "{% if subscriber.first_name %}{% block inner %}in\n{% endblock %}{% endif %}"
    "{% block body %}{% block nested %}nest{% endblock %}{% endblock %}\nend {{ sender.name }}\n",
    "loops": "{% for i in [1, 2] %}{% block body scoped %}{{ i }}{% endblock %}{% endfor %}",
    "deep": "{% extends '_base/layout.KIND' %}\n{% block title %}deep {{ super() }}{% endblock %}",
    "plain": "{% extends '_base/layout.KIND' %}{% block inner %}\nplain {{ sender.name }}{% endblock %}",
}  # fmt: skip


@st.composite
def sources(draw: st.DrawFn) -> str:
    """The source of a part: snippets, often as blocks of a base."""
    text = "".join(draw(st.lists(st.sampled_from(SNIPPETS), max_size=7))).replace("{0}", PARAGRAPH)
    base = draw(st.sampled_from(["", "", "layout", "deep", "plain", "loops"]))
    if not base:
        return text
    more = draw(st.lists(st.sampled_from(SNIPPETS), max_size=2))
    block = draw(st.sampled_from(["body", "nested", "inner"]))
    return (
        f"{draw(st.sampled_from(['', '', 'before']))}{{% extends '_base/{base}.KIND' %}}\n"
        f"{draw(st.sampled_from(['', '', '{% set name = 1 %}', 'between']))}"
        f"{{% block title %}}{''.join(more)}{{% endblock %}}\n"
        f"{{% block {block} %}}{text}{{% endblock %}}"
    ).replace("{0}", "y")


@given(
    text=sources(),
    html=st.none() | sources(),
    subject=st.sampled_from(["Hi", "Grüße {{ subscriber.first_name }}", "{{ sender.name }}\n"])
    | st.sampled_from(SNIPPETS),
    first_name=st.none() | WORDS,
    n=st.integers(0, 5) | st.floats(allow_nan=False),
)
@settings(max_examples=100, deadline=None)
def test_a_skeleton_composes_what_the_whole_render_does(
    text: str, html: str | None, subject: str, first_name: str | None, n: float
) -> None:
    parts = {"subject.txt": subject, "body.txt": text, **({"body.html": html} if html else {})}
    parts = {
        path: source.replace("KIND", path.partition(".")[2]).replace("{0}", "")
        for path, source in parts.items()
    }
    for kind, source in (("txt", text), ("html", html or "")):
        named = set(re.findall(r"_base/(\w+)", source)) & BASES.keys()
        for name in named | ({"layout"} if named & {"deep", "plain"} else set()):
            parts[f"_base/{name}.{kind}"] = BASES[name].replace("KIND", kind)
    bundle = Bundle("test/mail", parts)
    given_variables = variables(first_name, a=first_name or 7, n=n)
    try:
        compiled(bundle)
    except Permanent as fault:
        with pytest.raises(Permanent) as caught:
            Skeleton(bundle, SEEN)
        assert str(caught.value) == str(fault)
        return
    plain, laid = both(bundle, given_variables)
    assert plain == laid


@given(first_name=WORDS, sender_name=WORDS, plan=WORDS)
@settings(max_examples=60, deadline=None)
def test_a_skeleton_means_what_the_standard_library_means(
    first_name: str, sender_name: str, plan: str
) -> None:
    bundle = Bundle(
        "test/mail",
        {
            "subject.txt": "Grüße {{ subscriber.attributes.plan }}",
            "body.txt": PARAGRAPH + "{{ subscriber.first_name }} {{ sender.name }}\n" + PARAGRAPH,
            "body.html": PARAGRAPH + "<p>{{ subscriber.first_name }}</p>\n" + PARAGRAPH,
        },
    )
    seen = {**SEEN, "name": sender_name}
    given_variables = variables(first_name, seen, plan=plan)
    plain, laid = both(bundle, given_variables)
    assert plain == laid
    if isinstance(laid, str):
        return
    rendered = compile(bundle).render(given_variables)
    meant = EmailMessage(policy=email.policy.SMTP)
    meant["Subject"], meant["To"] = rendered.subject, FACTS.to_address
    assert rendered.html is not None
    # Both of its readers of line ends would differ on a lone CR; a mail has one kind of them.
    text, html = (
        each.replace("\r\n", "\n").replace("\r", "\n") for each in (rendered.text, rendered.html)
    )
    meant.set_content(text)
    meant.add_alternative(html, subtype="html")
    read = email.message_from_bytes(laid.octets, policy=email.policy.default)
    assert read["Subject"] == rendered.subject and read["To"] == meant["To"]
    assert [part.get_content_type() for part in read.walk()] == [
        part.get_content_type() for part in meant.walk()
    ]
    octets = meant.as_bytes()
    for kind in ("plain", "html"):
        assert body(laid.octets, kind) == body(octets, kind)


@pytest.mark.parametrize("name", ["thank-you/first", "thank-you/second", "win-back/hello"])
def test_the_shipped_mails_are_laid_out_and_need_no_whole_render(name: str) -> None:
    bundle = bundle_from_folder(TEMPLATES, name)
    given_variables = variables(purchases=3, spent=1234.5, last_purchase="2026-01-02")
    plain, laid = both(bundle, given_variables)
    assert plain == laid and isinstance(laid, Content)
    skeleton = Skeleton(bundle, SEEN)
    skeleton._plain = None  # type: ignore[assignment]
    assert skeleton._sandbox is not None
    assert skeleton.compose(given_variables, message=FACTS, sender=SENDER) == laid
    # The layout with its footer, and the text's footer, were encoded before.
    assert len(skeleton._sandbox.fixed) >= 3
    assert sum(map(len, skeleton._sandbox.fixed)) > 1500
    assert any("Müller &amp; Söhne" in piece for piece in skeleton._sandbox.fixed)


def test_every_mail_that_ships_is_the_same_both_ways() -> None:
    folders = sorted(file.parent for file in TEMPLATES.rglob("subject.txt"))
    assert len(folders) >= 4
    for folder in folders:
        bundle = bundle_from_folder(TEMPLATES, str(folder.relative_to(TEMPLATES)))
        plain, laid = both(bundle, variables(orders=3, purchases=3, spent=1234.5))
        assert plain == laid


def test_what_cannot_be_laid_out_is_sent_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.send.skeleton.FoldingSandbox.get_template", None)
    bundle = bundle_from_folder(TEMPLATES, "thank-you/first")
    plain, laid = both(bundle, variables(purchases=3))
    assert plain == laid and isinstance(laid, Content)


def test_each_reader_gets_their_language_and_what_happened_to_them() -> None:
    parts = {
        "subject.txt": "Order {{ event.order | default('of yours') }}", "body.txt": "Hello",
        "de/subject.txt": "Ihre Bestellung {{ event.order }}", "de/body.txt": "Grüß Gott",
    }  # fmt: skip
    bundle = Bundle("test/mail", parts)
    for locale, said in (("de-CH", b"Subject: Ihre Bestellung A-7"), ("fr", b"Subject: Order A-7")):
        given_variables = variables() | {"event": {"order": "A-7"}}
        given_variables["subscriber"] = {**given_variables["subscriber"], "locale": locale}
        plain, laid = both(bundle, given_variables)
        assert plain == laid and isinstance(laid, Content) and said in laid.octets


def test_a_template_bomb_is_told_by_the_whole_render() -> None:
    bundle = Bundle(
        "test/mail",
        {"subject.txt": "s", "body.txt": "\n{{ sender.name * subscriber.attributes.n }}"},
    )
    plain, laid = both(bundle, variables(n=10**9))
    assert plain == laid and "test/mail/body.txt line 2: it used up its budget" in str(laid)
    plain, laid = both(bundle, variables(n=100_000))
    assert plain == laid and "over 1000000 characters" in str(laid)
