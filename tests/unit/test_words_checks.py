"""What a model may say, and what nobody can make it say through a field of theirs."""

from __future__ import annotations

import datetime as dt
import json
import re
from pathlib import Path
from typing import Any

import pytest

from schedules.expression.evaluate import Known
from schedules.findings import DefinitionError
from schedules.prompt import Prompt, name_like, put_back
from schedules.prompt_file import load_prompt, loads_prompt
from tasks.personalize import batch_lines, checks, spam
from tasks.personalize.engine import Brief, messages, read, response_format
from tasks.personalize.language import other_language
from tasks.personalize.prices import Prices, parse_shares
from workers.embedded.model_server import GARBAGE, Manners, completion

ROOT = Path(__file__).parents[2]
INJECTIONS = [
    line
    for line in (ROOT / "tests/data/prompt_injections.txt").read_text().splitlines()
    if line and not line.startswith("#")
]
PROMPT = load_prompt(ROOT / "templates", "win-back/hello")
BRIEF = Brief.from_source(PROMPT.to_json())
TOLD = PROMPT.told(
    Known(dt.datetime(2026, 11, 1, tzinfo=dt.UTC), {"first_name": "Zoë", "purchases": 3})
)
OPEN = """
task: Write a friendly line for a customer whom we have not seen for a while.
language: en
fields:
  city: {from: sub.city, text: 60}
  plan: {from: sub.plan, choices: [basic, pro]}
  orders: {from: sub.orders, bands: [2, 5]}
  vip: {from: sub.vip}
names: [first_name]
slots: {subject: {max: 200}, opening: {max: 400}}
variants:
  - {subject: We have not seen you for a while, opening: "We have missed you, and would be glad to see you again."}
"""
# Said here again, apart from the code under test: what nobody may smuggle into a mail.
HARM = re.compile(
    r"https?:|www\.|\w\.\w\w|@|\d|%|\$|<|>|\{|\b(?:free|gift|discount|offer|coupon|voucher|sale|price"
    r"|percent|refund\w*|prize|rabatt|gutschein|prozent|cadeau|gratuit|oferta|descuento)\b",
    re.IGNORECASE,
)


def known(**attributes: Any) -> Known:
    return Known(dt.datetime(2026, 11, 1, tzinfo=dt.UTC), attributes)


def good() -> dict[str, str]:
    return dict(BRIEF.variants[0])


def found(**slots: str) -> set[str]:
    return {check for check, _ in checks.faults(good() | slots, BRIEF, TOLD)}


def test_the_operators_own_variants_pass_every_check() -> None:
    for each in BRIEF.variants:
        assert checks.faults(each, BRIEF, TOLD) == []
    assert found(subject="We have not seen you, [first_name]") == set()


@pytest.mark.parametrize("injection", INJECTIONS)
def test_a_model_that_obeys_an_injection_changes_no_link_offer_or_address(injection: str) -> None:
    for slot in BRIEF.slots:
        said = injection[: BRIEF.slots[slot]]
        if found(**{slot: said}):
            continue
        assert not HARM.search(said), f"{said!r} would stand in a mail"
    # Nor through the name, which no model sees, but which is put back.
    words = put_back({"subject": "Hello [first_name]"}, {"first_name": injection})
    assert not words or not HARM.search(words["subject"])


@pytest.mark.parametrize("injection", INJECTIONS)
def test_a_model_is_told_no_markup_and_the_block_of_data_ends_once(injection: str) -> None:
    prompt = loads_prompt(OPEN, "a/b", "b.yaml")
    told = prompt.told(known(city=injection, plan=injection, orders=injection, vip=injection))
    assert told["plan"] == "other" and told["orders"] is None and told["vip"] == "no"
    assert told["city"] is None or not HARM.search(told["city"].replace("free", ""))
    brief = Brief.from_source(prompt.to_json())
    # Even a field that were told as it stands could not end its block.
    (_, asked) = messages(brief, {"city": injection})
    assert asked["content"].count("</data>") == asked["content"].count("<data>") == 1
    assert asked["content"].endswith("</data>")


@pytest.mark.parametrize(
    ("said", "check"),
    [
        ("See example.com for more", "link"),
        ("See evil。example for more", "link"),
        ("Write to a@b for more", "address"),
        ("Bcc: everybody we know", "header"),
        ("Now with <b>more</b> music", "characters"),
        ("Hello [last_name], welcome", "placeholder"),
        ("Hello {{ name }}, welcome", "characters"),
        ("You have 17 records left to hear", "figures"),
        ("Everything is free for you", "offer"),
        ("A discount is waiting for you", "offer"),
        ("This is your last chance, friend", "banned"),
        ("x" * 61, "length"),
        ("", "length"),
        ("ACT NOW!!! LIMITED TIME, CLICK HERE, URGENT", "banned"),
        ("Wir haben dich lange nicht gesehen und vermissen dich sehr", "language"),
    ],
)
def test_each_check_refuses_what_it_is_for(said: str, check: str) -> None:
    assert check in found(subject=said)


def test_a_figure_counts_as_given_only_where_it_is_ours() -> None:
    slots = good() | {
        "opening": "You have ordered 2 to 4 times, and we would be glad to see you again."
    }
    assert checks.faults(slots, BRIEF, {"purchases": "2 to 4"}) == []
    told = {"city": "ordered 2 to 4 times"}
    assert [check for check, _ in checks.faults(slots, BRIEF, told)] == ["figures"]


def test_a_text_about_something_else_is_refused() -> None:
    words = "Photosynthesis converts sunlight into energy inside the chloroplasts of plants."
    slots = dict.fromkeys(BRIEF.slots, words[:60]) | {"opening": words}
    assert "likeness" in {check for check, _ in checks.faults(slots, BRIEF, TOLD)}


def test_whatever_the_shipped_server_spoils_is_refused() -> None:
    asked = {"messages": messages(BRIEF, TOLD), "response_format": response_format(BRIEF)}
    for kind in GARBAGE:
        slots = read(completion(asked, kind), BRIEF.slots)
        assert isinstance(slots, str) or checks.faults(slots, BRIEF, TOLD), kind
    fine = read(completion(asked), BRIEF.slots)
    assert isinstance(fine, dict) and checks.faults(fine, BRIEF, TOLD) == []
    assert completion(asked) == completion(asked), "the same data, the same answer"


@pytest.mark.parametrize("content", ["", "[]", "null", "{}", '{"subject": 1}', "[" * 100_000])
def test_an_answer_of_another_form_is_said_in_words(content: str) -> None:
    assert isinstance(read(content, BRIEF.slots), str)


def test_fields_are_told_coarsely_and_names_not_at_all() -> None:
    prompt = loads_prompt(OPEN, "a/b", "b.yaml")
    told = prompt.told(known(first_name="Zoë", city="New York", plan="pro", orders=5, vip=True))
    assert told == {
        "city": "New York", "plan": "pro", "orders": "5 or more", "vip": "yes",
        "first_name": "[first_name]",
    }  # fmt: skip
    assert "Zoë" not in json.dumps(messages(Brief.from_source(prompt.to_json()), told))
    assert Prompt.from_json(prompt.to_json()) == prompt


def test_a_name_is_put_back_or_no_words_are_used_at_all() -> None:
    words = {"subject": "Hello [first_name]", "opening": "Welcome."}
    assert put_back(words, {"first_name": " Zoë "})["subject"] == "Hello Zoë"
    assert put_back(words, {"first_name": None}) == {}
    assert put_back({"opening": "Welcome."}, {}) == {"opening": "Welcome."}
    assert name_like("Jean-Luc O'Neil") and not name_like("Zoë http://x") and not name_like(7)


def test_a_prompt_file_says_everything_that_is_wrong_with_its_place() -> None:
    text = "task: ''\nlanguage: xx\nfields:\n  a: {bands: [5, 2]}\nslots: {Sub: {max: 60}}\nvariants: []\n"
    with pytest.raises(DefinitionError) as fault:
        loads_prompt(text, "a/b", "b.yaml")
    said = str(fault.value)
    for part in ("b.yaml:1:", "b.yaml:2:", "no 'from'", "do not ascend", "no name of a slot"):
        assert part in said


def test_how_long_texts_are_kept_is_no_part_of_what_they_are_made_from() -> None:
    kept = loads_prompt(OPEN + "keep: 30d\n", "a/b", "b.yaml")
    assert kept.keep_days == 30
    assert kept.sha256 == loads_prompt(OPEN, "a/b", "b.yaml").sha256
    with pytest.raises(DefinitionError, match="whole days, such as 90d"):
        loads_prompt(OPEN + "keep: 12h\n", "a/b", "b.yaml")


def test_languages_are_told_apart_only_where_one_is_clearly_ahead() -> None:
    assert other_language("Wir freuen uns, dass du wieder bei uns bist", "de") is None
    assert other_language("It has been a while since we saw you and we miss you", "de")
    assert other_language("Musik", "en") is None
    assert other_language("今日はいい天気ですね", "en") == "it is not written in Latin letters"


def test_what_spam_looks_like_has_points_and_an_ordinary_mail_has_none() -> None:
    assert spam.score("It has been a while. We would be glad to see you again.") == 0
    assert spam.score("ACT NOW!!! FREE MONEY, CLICK HERE, 100 % GUARANTEED") >= spam.LIMIT


def test_prices_are_rounded_up_and_read_strictly() -> None:
    prices = Prices.parse("gpt=0.25/2.00, own=0/0")
    price = prices.of("gpt")
    assert price is not None and price.cost(1_000_000, 1) == 250_002 and price.cost(1, 0) == 1
    assert prices.of("other") is None
    with pytest.raises(ValueError, match="MODEL=IN/OUT"):
        Prices.parse("gpt=cheap")


def test_a_batch_costs_half_unless_a_share_is_named() -> None:
    prices = Prices.parse("gpt=2/4,own=2/4", parse_shares("own=0.25"))
    half, quarter = prices.by_batch("gpt"), prices.by_batch("own")
    assert half is not None and half.cost(10, 10) == 30
    assert quarter is not None and quarter.cost(10, 10) == 15
    assert prices.by_batch("other") is None
    for wrong in ("gpt", "gpt=2", "gpt=-1"):
        with pytest.raises(ValueError, match=r"MODEL=0\.5"):
            parse_shares(wrong)


@pytest.mark.parametrize(
    "line",
    [
        "not json", "{}", "[]", "null", '{"custom_id": "zz"}', '{"custom_id": 7}',
        '{"custom_id": "aa", "response": null, "error": {"code": "batch_expired"}}',
        '{"custom_id": "aa", "response": {"status_code": 500, "body": {}}}',
        '{"custom_id": "aa", "response": {"status_code": 200, "body": {"choices": []}}}',
        '{"custom_id": "aa", "response": {"status_code": 200, "body": [1]}}',
    ],
)  # fmt: skip
def test_a_line_of_a_batch_that_is_no_answer_is_none(line: str) -> None:
    fine = {"message": {"content": "a\u2028b"}}
    answer = {"status_code": 200, "body": {"choices": [fine], "usage": {"prompt_tokens": -1}}}
    good = json.dumps({"custom_id": "bb", "response": answer}, ensure_ascii=False)
    found = {each.key: each.answer for each in batch_lines.read(f"{line}\n{good}\n".encode())}
    assert found.pop(b"\xaa", None) is None
    (answered,) = found.values()
    assert answered is not None and answered.content == "a\u2028b"
    assert (answered.tokens_in, answered.tokens_out) == (None, None), (
        "counted as what it might cost"
    )


@pytest.mark.parametrize("fail", ["429", "429:2", "200:0.1", "429:0.6,500:0.6"])
def test_a_server_cannot_be_told_nonsense(fail: str) -> None:
    with pytest.raises(ValueError):
        Manners.parse(fail, latency=0, garbage=0)
