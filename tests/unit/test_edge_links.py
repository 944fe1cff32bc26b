"""What a mail says of the edge: tokens that nobody can make, headers, links that lead to rows."""

from __future__ import annotations

import random
import socket
from datetime import UTC, datetime
from email import message_from_bytes, policy
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import Misconfigured
from tasks.moves.effect import rfc_message_id
from tasks.send.content import Facts, Sender, compose
from tasks.send.edge import Edge, Reach
from tasks.send.links import Links, tracked
from tasks.send.list_headers import edge_url, list_headers
from tasks.send.render import Bundle, Rendered, compiled
from tasks.send.tokens import Keys, read, read_unsubscribe_token, sign
from workers.embedded.edge_port import edge_port, edge_variables, kept_port
from workers.logs import redact

KEYS = Keys("k2", {"k2": b"new" * 11, "k1": b"old" * 11})
IDS = st.integers(0, 2**63 - 1)
PAGE = """<html><body><p>Hi</p>
<a class="b" href="https://shop.example/a?x=1&amp;y=2">A</a> <A HREF='http://shop.example/b'>B</A>
<a href="https://shop.example/a?x=1&amp;y=2">A again</a> <a href="mailto:a@example.com">mail</a>
<a href="https://shop.example/{{ subscriber.first_name }}">yours</a>
<a href="{{ unsubscribe.url }}">off</a></body></html>"""
MAIL = Bundle("a/mail", {"subject.txt": "Hi", "body.txt": "Hi", "body.html": PAGE})


@given(IDS, IDS)
def test_a_token_opens_what_it_was_made_for_and_nothing_else(message: int, link: int) -> None:
    token = sign(KEYS, "click", message, link)
    assert read(KEYS, "click", token) == (message, link)
    assert read(KEYS, "open", token) is None and read(KEYS, "unsubscribe", token) is None
    assert token.isascii() and redact(f"GET /c/{token} x") == "GET /c/[token] x"
    assert read(KEYS, "unsubscribe", sign(KEYS, "unsubscribe", message)) == (message,)


def test_the_tokens_of_mails_sent_before_there_were_others_stay_good() -> None:
    before = "k1.AAAAAAAAAfQ.4Ba1VuWlJ4JeIVTcxUFh5g"
    assert sign(Keys("k1", {"k1": b"s" * 32}), "unsubscribe", 500) == before
    assert read_unsubscribe_token({"k1": b"s" * 32}, before) == 500


def test_ten_thousand_forged_tokens_open_nothing() -> None:
    chance = random.Random(7)
    good = sign(KEYS, "click", 4711, 3)
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."
    for _ in range(10_000):
        forged = list(good)
        for _ in range(chance.randint(1, 3)):
            forged[chance.randrange(len(forged))] = chance.choice(letters)
        token = "".join(forged)
        assert token == good or read(KEYS, "click", token) is None
    for odd in ("", ".", "k1..", good + "A", good[:-1], good.replace("k2", "k9"), "ä" + good[1:]):
        assert read(KEYS, "click", odd) is None


def test_a_key_that_signs_no_more_still_opens_what_it_signed() -> None:
    first = Keys.of("k1", "old")
    token = sign(first, "unsubscribe", 8)
    turned = Keys.of("k2", "new", "k1=old")
    assert read(turned, "unsubscribe", token) == (8,)
    assert sign(turned, "unsubscribe", 8).startswith("k2.")
    assert [each.signing for each in turned.others()] == ["k1"]
    for wrong in ("old", "k1=", "K1=old", "k2=other", "k1=a k1=b"):
        with pytest.raises(Misconfigured, match="DRIPFLEET_SECRET_TOKEN_OLD: expected ID=SECRET"):
            Keys.of("k2", "new", wrong)


def test_a_link_that_stands_whole_in_a_page_becomes_a_row_and_others_stay() -> None:
    made = tracked(MAIL, "all")
    assert made.urls == ("https://shop.example/a?x=1&y=2", "http://shop.example/b")
    page = made.bundle.parts["body.html"]
    assert page.count("{{ links[0] }}") == 2 and "{{ links[1] }}" in page
    assert 'href="https://shop.example/{{ subscriber' in page and "{{ unsubscribe.url }}" in page
    # The one that no human sees, then the pixel, at the very end of the page.
    assert page.index("{{ links[2] }}") < page.index("{{ links[3] }}") < page.index("</body>")
    assert tracked(MAIL, "none").bundle == MAIL
    assert (
        not tracked(MAIL, "opens").urls
        and "links[0]" in tracked(MAIL, "opens").bundle.parts["body.html"]
    )
    bare = Bundle("a/mail", {**MAIL.parts, "body.html": "<p>no end</p>"})
    assert tracked(bare, "all").bundle == bare


ODD = """<html><body>
{# <a href="https://shop.example/comment">x</a> #}{{ '<a href="https://shop.example/text">' | safe }}
{%- raw %}<a href="https://shop.example/raw">{{ x }}</a>{% endraw %}
{% if yes %}<a href="https://shop.example/if">y</a>{% endif %}
{% import "_base/part.html" as part %}{{ part.button() }}
</body></html>"""
PART = """{% macro button() %}<a href="https://shop.example/part?a=1&amp;b">go</a>{% endmacro %}"""


def test_what_a_template_only_speaks_of_is_not_rewritten_and_a_macro_without_variables_works() -> (
    None
):
    parts = {"subject.txt": "Hi", "body.txt": "Hi", "body.html": ODD, "_base/part.html": PART}
    bundle = Bundle("an/odd", parts)
    made = tracked(bundle, "clicks")
    assert made.urls == ("https://shop.example/part?a=1&b", "https://shop.example/if")
    here = {"yes": True, "links": ["L0", "L1", "L2"]}
    told, plain = (compiled(each).render(here).html or "" for each in (made.bundle, bundle))
    assert 'href="L1"' in told and 'href="L2"' in told and "{{ x }}" in told
    # A macro that is taken in sees nothing of the mail, so its link stays the one that it was.
    assert 'href="https://shop.example/part?a=1&amp;b"' in told
    for still in ("text", "raw"):
        assert f'href="https://shop.example/{still}"' in told
    assert plain.count("shop.example") == told.count("shop.example") + 1


def test_a_mail_names_the_edge_only_where_there_is_one_and_one_click_only_where_one_can_leave() -> (
    None
):
    rows = {"https://shop.example/a?x=1&y=2": 5, "http://shop.example/b": 6}
    base = "https://m.example.com"
    edge = Edge(Links(lambda urls: rows, base), base)
    here = edge.of(MAIL, Reach(True, "all"), KEYS)
    told = here.variables(77, "mailto:off@example.com")
    rendered = compiled(here.tracked.bundle).render(
        {"subscriber": {"first_name": "zoe"}, "sender": {}, **told}
    )
    assert rendered.html is not None
    links = [part.partition('"')[0] for part in rendered.html.split(f"{base}/c/")[1:]]
    clicks = [read(KEYS, "click", link.partition("'")[0]) for link in links]
    assert clicks == [(77, 5), (77, 6), (77, 5), (77, 0)]
    assert here.one_click(77) == told["unsubscribe"]["url"]
    assert edge.of(MAIL, Reach(False, "none"), KEYS).one_click(77) is None
    nowhere = Edge(Links(lambda urls: rows, ""), "").of(MAIL, Reach(True, "all"), KEYS)
    assert nowhere.variables(77, "mailto:x") == {"unsubscribe": {"mailto": "mailto:x"}}
    assert nowhere.one_click(77) is None and nowhere.tracked.bundle is MAIL


def test_the_pair_of_headers_stands_in_the_mail_as_rfc_8058_wants_it() -> None:
    key = sha256(b"x").digest()
    url = "https://m.example.com/u/" + sign(KEYS, "unsubscribe", 77)
    facts = Facts(
        rfc_message_id(b"s" * 32, key, "example.com"), "ada@example.com",
        datetime(2026, 3, 1, tzinfo=UTC), key, "k2.a.b", url,
    )  # fmt: skip
    sender = Sender("Shop", "shop@example.com", "1 Street", "off@example.com")
    made = compose(Rendered("Hi", "Hi", None), message=facts, sender=sender)
    read_again = message_from_bytes(made.octets, policy=policy.default)
    https, mailto = read_again["List-Unsubscribe"].split(", ")
    assert https == f"<{url}>" and mailto.startswith("<mailto:off@example.com?subject=")
    assert read_again["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert list_headers("mailto:x", None) == [("List-Unsubscribe", "<mailto:x>")]


@pytest.mark.parametrize(
    "given_url",
    [
        "http://mail.example.com",
        "https://",
        "ftp://a",
        "https://a/?x=1",
        "https://u@a",
        "https://a b",
    ],
)
def test_an_address_that_a_reader_could_not_trust_is_refused(given_url: str) -> None:
    with pytest.raises(ValueError, match="expected https://host"):
        edge_url(given_url)


def test_an_address_may_be_on_this_machine_or_below_a_path() -> None:
    assert edge_url(" https://a.example/mail/ ") == "https://a.example/mail"
    assert edge_url("http://127.0.0.1:8650") == "http://127.0.0.1:8650"
    assert edge_url("") == ""


def test_the_edge_of_a_home_keeps_its_port_and_only_mails_to_the_sink_name_it(
    tmp_path: Path,
) -> None:
    assert kept_port(tmp_path) is None
    port = edge_port(tmp_path)
    assert edge_port(tmp_path) == port and kept_port(tmp_path) == str(port)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        assert edge_port(tmp_path) != port, "mails of before lead nowhere then, those to come do"
    here = f"http://127.0.0.1:{port}"
    told = edge_variables(str(port), sink=True, environ={})
    assert told == {"DRIPFLEET_EDGE_PORT": str(port), "DRIPFLEET_EDGE_URL": here}
    assert "DRIPFLEET_EDGE_URL" not in edge_variables(str(port), sink=False, environ={})
    theirs = {"DRIPFLEET_EDGE_URL": "https://mail.example.com"}
    assert "DRIPFLEET_EDGE_URL" not in edge_variables(str(port), sink=True, environ=theirs)
