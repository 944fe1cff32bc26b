"""What a template may say, and what it may not do."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.errors import Permanent
from tasks.send.render import Bundle, Rendered, bundle_from_folder, compile, compiled

TEMPLATES = Path(__file__).parents[2] / "templates"
MAILS = ["thank-you/first", "thank-you/second", "win-back/hello", "win-back/nudge"]


def variables(**attributes: object) -> dict[str, object]:
    return {
        "subscriber": {
            "first_name": "Ada",
            "locale": "en",
            "zone": "Europe/Berlin",
            "attributes": attributes,
        },
        "sender": {"name": "Records & Co", "postal_address": "1 Example Street\nExampletown"},
        "unsubscribe": {"mailto": "mailto:off@example.com?subject=unsubscribe%20k1.a.b"},
    }


def bundle(body: str, *, subject: str = "s", html: str | None = None, **base: str) -> Bundle:
    parts = {"subject.txt": subject, "body.txt": body}
    if html is not None:
        parts["body.html"] = html
    parts |= {f"_base/{name.replace('_', '.')}": source for name, source in base.items()}
    return Bundle("test/mail", parts)


def text_of(body: str, **attributes: object) -> str:
    return compile(bundle(body)).render(variables(**attributes)).text


# Mails that ship


@pytest.mark.parametrize("name", MAILS)
def test_every_shipped_mail_renders_in_text_and_html(name: str) -> None:
    mail = compile(bundle_from_folder(TEMPLATES, name)).render(
        variables(purchases=3, spent=1234.5, last_purchase="2026-01-02")
    )
    assert mail.html is not None
    assert mail.subject and "\n" not in mail.subject
    for part in (mail.text, mail.html):
        assert "mailto:off@example.com" in part
        assert "1 Example Street" in part and "Exampletown" in part
        assert "{{" not in part and "None" not in part
    assert "Records &amp; Co" in mail.html and "Records & Co" in mail.text
    assert '<html lang="en">' in mail.html
    assert "<img" not in mail.html and "http" not in mail.html


@pytest.mark.parametrize("name", MAILS)
@pytest.mark.parametrize("first_name", ["", None])
def test_every_shipped_mail_does_without_name_and_attributes(
    name: str, first_name: str | None
) -> None:
    given = variables()
    given["subscriber"] = {
        "first_name": first_name,
        "locale": None,
        "zone": None,
        "attributes": {},
    }
    mail = compile(bundle_from_folder(TEMPLATES, name)).render(given)
    assert "None" not in f"{mail}".replace("html=None", "")
    assert " ," not in mail.text and not mail.subject.endswith(",")


def test_the_shipped_text_has_the_figures_of_the_subscriber() -> None:
    mail = compile(bundle_from_folder(TEMPLATES, "thank-you/first")).render(
        variables(purchases=3, spent=1234.5, last_purchase="2026-01-02")
    )
    assert "3 orders" in mail.text
    assert "$1,234.50" in mail.text
    assert "2026-01-02" in mail.text


# Bundles


def test_a_bundle_holds_every_base_it_names_and_survives_storage() -> None:
    read = bundle_from_folder(TEMPLATES, "thank-you/first")
    assert set(read.parts) == {
        "subject.txt",
        "body.txt",
        "body.html",
        "_base/footer.txt",
        "_base/layout.html",
    }
    stored = Bundle.from_json(read.to_json())
    assert stored == read and stored.sha256 == read.sha256 and len(read.sha256) == 32
    assert compiled(stored) is compiled(read)


def test_the_hash_tells_any_change_and_not_the_order_or_line_ends(tmp_path: Path) -> None:
    one = bundle("a", html="b")
    assert Bundle("test/mail", dict(reversed([*one.parts.items()]))).sha256 == one.sha256
    others = [bundle("ab", html=""), bundle("a", html="c"), bundle("a"), Bundle("x", one.parts)]
    assert len({each.sha256 for each in (one, *others)}) == 5

    for folder, end in (("unix", b"\n"), ("dos", b"\r\n")):
        (tmp_path / folder / "mail").mkdir(parents=True)
        for path in ("subject.txt", "body.txt"):
            (tmp_path / folder / "mail" / path).write_bytes(b"one" + end + b"two" + end)
    unix, dos = (bundle_from_folder(tmp_path / name, "mail") for name in ("unix", "dos"))
    assert unix.sha256 == dos.sha256


@pytest.mark.parametrize("stored", ["", "[]", '{"name": "x"}', '{"name": "x", "parts": {"a": 1}}'])
def test_a_broken_stored_bundle_is_one_clear_sentence(stored: str) -> None:
    with pytest.raises(Permanent, match="apply its sequence again"):
        Bundle.from_json(stored)


@pytest.mark.parametrize("name", ["no/such", "../outside", "/etc", "Upper", ""])
def test_a_missing_folder_is_named(name: str) -> None:
    with pytest.raises(Permanent, match="no template folder"):
        bundle_from_folder(TEMPLATES, name)


def test_a_mail_without_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mail").mkdir()
    (tmp_path / "mail" / "subject.txt").write_text("s")
    (tmp_path / "mail" / "body.html").write_text("h")
    with pytest.raises(Permanent, match=r"needs mail/body\.txt"):
        bundle_from_folder(tmp_path, "mail")


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mail").mkdir()
    (tmp_path / "mail" / "subject.txt").write_text("s")
    (tmp_path / "mail" / "body.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(Permanent, match=r"mail/body\.txt cannot be read as UTF-8"):
        bundle_from_folder(tmp_path, "mail")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("{% include '_base/none.txt' %}", r"_base/none\.txt, which is not in its bundle"),
        ("{% include subscriber.locale %}", "names a template by an expression"),
        ("{% include 'subject.txt' %}", "outside '_base/'"),
        ("{% include '_base/../x.txt' %}", "outside '_base/'"),
        ("one\n{% if %}", r"test/mail/body\.txt line 2: .*; correct the template"),
        ("{{ 1 | random }}", r"body\.txt line 1: No filter named 'random'"),
    ],
)
def test_what_is_no_template_is_named_with_its_file(body: str, said: str) -> None:
    with pytest.raises(Permanent, match=said):
        compile(bundle(body))


def test_text_is_never_taken_into_html_unescaped() -> None:
    with pytest.raises(Permanent, match="text takes in text"):
        compile(bundle("", html="{% include '_base/f.txt' %}", f_txt="{{ sender.name }}"))


def test_a_circle_of_includes_is_refused() -> None:
    one, two = "{% include '_base/b.txt' %}", "{% include '_base/a.txt' %}"
    with pytest.raises(Permanent, match="takes itself in"):
        compile(bundle(two, a_txt=one, b_txt=two))


# Rendering


def test_html_is_escaped_and_text_is_not() -> None:
    mail = compile(bundle("{{ sender.name }}", html="{{ sender.name }}")).render(variables())
    assert mail == Rendered("s", "Records & Co", "Records &amp; Co")


def test_the_same_variables_give_the_same_mail_in_every_thread() -> None:
    mail = compile(bundle_from_folder(TEMPLATES, "win-back/hello"))
    with ThreadPoolExecutor(4) as pool:
        made = set(pool.map(lambda _: mail.render(variables(purchases=2)), range(40)))
    assert len(made) == 1


def test_a_key_of_the_data_goes_before_a_method_of_its_name() -> None:
    assert text_of("{{ subscriber.attributes.items }}", items=7) == "7"
    assert text_of("{% for k, v in subscriber.attributes.items() %}{{ k }}{% endfor %}", a=1) == "a"


ORDINARY = {
    "{{ '{:,.2f}'.format(1234.5) }}": "1,234.50",
    "{{ '%.1f' % 2 }}": "2.0",
    "{{ '%.1f' | format(2) }}": "2.0",
    "{{ ['a', 'b'] | join(', ') }}": "a, b",
    "{{ ', '.join(['a', 'b']) }}": "a, b",
    "{{ 'ab' | replace('a', 'c') | upper }}": "CB",
    "{{ [3, 1] | sort | first }}": "1",
    "{{ [1, 2] | sum }}": "3",
    "{{ 'x'.ljust(3) }}|": "x  |",
    "{{ 'one two' | wordwrap(3) }}": "one\ntwo",
    "{{ 2 ** 10 }}": "1024",
    "{% for i in range(9) if i is odd %}{{ loop.index }}{% endfor %}": "1234",
    "{% for i in [1, [2, 3]] recursive %}{{ i if i is number else loop(i) }}{% endfor %}": "123",
    "{% macro m(a) %}<{{ a }}>{% endmacro %}{{ m(1) }}": "<1>",
    "{% set n = namespace(x=1) %}{% set n.x = n.x + 1 %}{{ n.x }}": "2",
    "{{ [1, 2, 3][1:] | length }}{{ 2 in [1, 2] }}": "2True",
    "{{ subscriber.attributes.none | default('-') }}": "-",
    "{{ subscriber.attributes.null | default('-', true) }}": "-",
    "{% set x %}a{{ 1 }}{% endset %}{{ x ~ 'b' ~ 2 }}": "a1b2",
}


@pytest.mark.parametrize("source", ORDINARY)
def test_ordinary_templates_mean_what_they_mean_in_jinja(source: str) -> None:
    assert text_of(source, null=None) == ORDINARY[source]


# Faults


def refused(source: str, **attributes: object) -> str:
    with pytest.raises(Permanent) as caught:
        text_of(source, **attributes)
    assert caught.value.__cause__ is None and caught.value.__suppress_context__
    return str(caught.value)


def test_a_fault_names_file_line_and_next_move() -> None:
    said = refused("one\n\n{{ subscriber.frist_name }}")
    assert said == (
        "test/mail/body.txt line 3: 'frist_name' is not defined;"
        " correct it, or give it `| default(…)`"
    )
    with pytest.raises(Permanent, match=r"^_base/f\.txt line 2: 'nobody' is not defined"):
        compile(bundle("{% include '_base/f.txt' %}", f_txt="\n{{ nobody }}")).render({})


@pytest.mark.parametrize(
    "source",
    [
        "{{ {}[subscriber.attributes.secret] }}",
        "{{ subscriber.attributes.secret | abs }}",
        "{{ subscriber.attributes.secret + 1 }}",
        "{{ 1 / (subscriber.attributes.secret | length - 6) }}",
        "{{ subscriber.attributes.secret.nope }}",
        "{{ subscriber.attributes.secret.format() }}",
        "{{ '%d' % subscriber.attributes.secret }}",
        "{{ subscriber[subscriber.attributes.secret] }}",
    ],
)
def test_a_fault_never_repeats_a_value(source: str) -> None:
    said = refused(source, secret="hush{}")
    assert "hush" not in said
    assert "test/mail/body.txt line 1" in said


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("{{ none }}", "is null"),
        ("{{ [1] }}", "join a list first"),
        ("{{ subscriber.attributes }}", "only text and numbers"),
        ("{{ 'a'.upper }}", "only text and numbers"),
        ("{{ ''.__class__ }}", "may not have"),
        ("{{ ''['__class__'].mro() }}", "may not have"),
        ("{{ '{0.__class__}'.format('') }}", "may not have"),
        ("{{ subscriber.attributes.update({'a': 1}) }}", "may not have"),
        ("{{ [].append(1) }}", "may not have"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "without an end"),
    ],
)
def test_what_is_not_for_mail_is_refused(source: str, said: str) -> None:
    assert said in refused(source)


BOMBS = [
    "{{ 'a'.ljust(10**9) }}",
    "{{ 'a'.ljust(1000000000) }}",
    "{{ 'a'.center(1000000000) }}",
    "{{ 'a'.zfill(1000000000) }}",
    "{{ '{:>1000000000}'.format(1) }}",
    "{{ '{:>{w}}'.format(1, w=1000000000) }}",
    "{{ '{:.1000000000f}'.format(1.0) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '%*d' % (1000000000, 1) }}",
    "{{ '%(a)1000000000d' % {'a': 1} }}",
    "{{ '%1000000000d' | format(1) }}",
    "{{ 'a' * 10**9 }}",
    "{{ 1000000000 * 'a' }}",
    "{{ ([1, 2] * 1000000000) | length }}",
    "{{ range(10**9) | length }}",
    "{{ range(1000000000) | list }}",
    "{{ 10 ** (10 ** 10) }}",
    "{{ 2.0 ** 100000 }}",
    "{{ 'a' | center(1000000000) }}",
    "{{ 'a' | indent(1000000000, true) }}",
    "{{ 1.5 | round(1000000000, 'ceil') }}",
    "{{ [1] | batch(1000000000, 0) | list }}",
    "{{ [1] | slice(1000000000) | list }}",
    "{{ ('a' * 1000000) | replace('a', 'b' * 1000000) }}",
    "{{ ('a' * 1000000).replace('a', 'b' * 1000000) }}",
    "{{ ('b' * 1000000).join(['a'] * 1000000) }}",
    "{{ (['a'] * 1000000) | join('b' * 1000000) }}",
    "{{ ('a b ' * 100000) | wordwrap(1, wrapstring='b' * 100000) }}",
    "{{ [[1] * 1000000] * 1000 | sum(start=[]) }}",
    "{{ 'a'.translate({97: 'b'}) }}",
    "{{ 'a'.expandtabs(1000000000) }}",
    "{{ (1).to_bytes(1000000000, 'big') }}",
    "{% for i in range(10000) %}{% for j in range(10000) %}{% endfor %}{% endfor %}",
    "{% for i in range(9999) %}{% for j in range(9999) if false %}{% endfor %}{% endfor %}",
    "{% for x in [1] recursive %}{{ loop([1] * 90000) if x else '' }}{% endfor %}",
    "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
    "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "{% set n = namespace(x=9) %}{% for i in range(99) %}{% set n.x = n.x * n.x %}{% endfor %}",
    "{% set n = namespace(x='a') %}{% for i in range(99) %}"
    "{% set y %}{{ n.x }}{{ n.x }}{% endset %}{% set n.x = y %}{% endfor %}",
    "{% set l = [1] * 1000000 %}{% for i in range(9999) %}{{ 2 in l }}{% endfor %}",
    "{% set l = [1] * 1000000 %}{% for i in range(9999) %}{% set m = l[1:] %}{% endfor %}",
    "{% set l = 'a' * 900000 %}{% for i in range(9999) %}{{ l }}{% endfor %}",
    "{% for i in range(9999) %}" + "x" * 500 + "{% endfor %}",
]


@pytest.mark.parametrize("source", BOMBS)
def test_a_bomb_is_refused_in_process_before_it_grows(source: str) -> None:
    mail = bundle(source)
    tracemalloc.start()
    try:
        with pytest.raises(Permanent, match=r"test/mail/body\.txt"):
            compile(mail).render(variables())
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()


def test_the_whole_budget_is_spent_within_seconds_of_cpu() -> None:
    calls = "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(40) }}"
    began = time.process_time()
    assert "budget" in refused(calls)
    assert time.process_time() - began < 5  # 0.2 s on a quiet machine


def test_includes_cost_turns_too() -> None:
    parts = {f"b{n}_txt": f"{{% include '_base/b{n + 1}.txt' %}}" * 2 for n in range(40)}
    with pytest.raises(Permanent, match="budget"):
        compile(bundle("{% include '_base/b0.txt' %}", **parts, b40_txt="")).render(variables())


def test_the_budget_is_whole_again_for_the_next_subscriber() -> None:
    mail = compile(bundle("{{ 'a' * subscriber.attributes.n }}"))
    for n in (10**9, 10):
        given: Mapping[str, object] = variables(n=n)
        if n > 10:
            with pytest.raises(Permanent, match="budget"):
                mail.render(given)
        else:
            assert mail.render(given).text == "a" * 10


def test_output_over_a_megabyte_is_refused_and_below_it_is_not() -> None:
    assert len(text_of("{{ 'a' * 999999 }}")) == 999_999
    assert "over 1000000 characters" in refused("{{ 'a' * 1000001 }}")
