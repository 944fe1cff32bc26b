"""What a reply means, and for whom: each code at each stage, and each edge of what is a reply."""

from __future__ import annotations

import pytest

from tasks.send.outcome import (
    Accepted,
    Deferred,
    InDoubt,
    Kind,
    Outcome,
    Refused,
    Stage,
    after_the_dot,
    before_the_dot,
)
from tasks.send.reply import MAX_LINE, MAX_REPLY, MAX_TEXT, RawReply, Reply, ReplyReader, cleaned

STAGES = [stage for stage in Stage if stage not in (Stage.CONNECT, Stage.DOT)]


def said(line: str) -> Reply:
    return Reply.of(RawReply(int(line[:3]), tuple(each.encode() for each in line.split("\n"))))


def kind(stage: Stage, line: str) -> Kind:
    told = before_the_dot(stage, said(line))
    assert told.stage is stage and told.cause == f"the relay answered {line[:3]} at {stage.value}"
    return told.kind


@pytest.mark.parametrize("stage", STAGES)
def test_421_means_fewer_connections_wherever_it_comes(stage: Stage) -> None:
    assert kind(stage, "421 4.7.0 too many") is Kind.SLOW_DOWN


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("code", [530, 534, 535, 538])
def test_what_speaks_of_access_is_a_fault_of_the_stream_wherever_it_comes(
    stage: Stage, code: int
) -> None:
    assert kind(stage, f"{code} 5.7.0 authentication required") is Kind.STREAM_FAULT


@pytest.mark.parametrize("code", [500, 501, 502, 503, 504, 521, 550, 554, 555])
def test_a_5yz_is_judged_by_where_it_comes(code: int) -> None:
    line = f"{code} 5.5.0 no"
    assert {stage: kind(stage, line) for stage in STAGES} == {
        Stage.GREETING: Kind.DEFERRED,
        Stage.EHLO: Kind.DEFERRED,
        Stage.STARTTLS: Kind.STREAM_FAULT,
        Stage.AUTH: Kind.STREAM_FAULT,
        Stage.MAIL: Kind.REFUSED,
        Stage.RCPT: Kind.REFUSED,
        Stage.DATA: Kind.REFUSED,
        Stage.BODY: Kind.DEFERRED,
    }


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("code", [400, 450, 451, 452, 454, 220, 354, 399])
def test_what_is_no_5yz_is_tried_again(stage: Stage, code: int) -> None:
    assert kind(stage, f"{code} later") is Kind.DEFERRED


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("550 5.1.1 unknown", Kind.HARD_BOUNCE),
        ("550 5.1.2 bad domain", Kind.HARD_BOUNCE),
        ("501 5.1.3 bad syntax", Kind.HARD_BOUNCE),
        ("554 5.1.6 moved", Kind.HARD_BOUNCE),
        ("556 5.1.10 null MX", Kind.HARD_BOUNCE),
        # 5.1.x that speaks of the sender, or of an address found valid.
        ("550 5.1.5 valid", Kind.REFUSED),
        ("553 5.1.7 sender's syntax", Kind.REFUSED),
        ("550 5.1.8 sender's system", Kind.REFUSED),
        ("550 5.1.9 not compliant", Kind.REFUSED),
        ("550 5.2.1 disabled", Kind.REFUSED),
        ("550 5.7.1 user unknown", Kind.REFUSED),
        # Without an enhanced code: the mailbox's own codes, and no word of policy.
        ("550 no such user", Kind.HARD_BOUNCE),
        ("551 not local", Kind.HARD_BOUNCE),
        ("553 no such name", Kind.HARD_BOUNCE),
        ("552 no such user", Kind.REFUSED),
        ("554 no such user", Kind.REFUSED),
        ("550 rejected by POLICY", Kind.REFUSED),
        ("550 not accepted (#5.7.1)", Kind.REFUSED),
    ],
)
def test_a_dead_mailbox_is_told_from_a_relay_that_will_not_have_us(
    line: str, expected: Kind
) -> None:
    assert kind(Stage.RCPT, line) is expected
    # Only RCPT speaks of a mailbox.
    for stage in (Stage.MAIL, Stage.DATA):
        assert kind(stage, line) is Kind.REFUSED


WORDS = (
    "policy spam block black deny denied relay reputation listed rbl spf dkim dmarc helo ehlo sender"
    " authentication rcpthosts access rejected_by dns ptr rate quota full size virus tls"
).split()


@pytest.mark.parametrize("word", WORDS)
def test_any_word_of_policy_makes_a_bare_550_a_plain_refusal(word: str) -> None:
    assert kind(Stage.RCPT, f"550 no: {word.replace('_', ' ')}") is Kind.REFUSED


@pytest.mark.parametrize(
    ("code", "expected"),
    [(250, Accepted), (299, Accepted), (200, Accepted), (400, Deferred), (421, Deferred),
     (499, Deferred), (500, Refused), (554, Refused), (599, Refused), (354, InDoubt)],
)  # fmt: skip
def test_after_the_dot_only_the_class_counts(code: int, expected: type[Outcome]) -> None:
    told = after_the_dot(said(f"{code} whatever"))
    assert type(told) is expected
    assert told.stage is Stage.DOT and told.code == code and told.text == "whatever"


def test_a_cause_speaks_where_no_reply_came() -> None:
    told = InDoubt(Stage.DOT, None, "closed")
    assert (told.code, told.enhanced, told.text) == (None, None, "closed")
    replied = InDoubt(Stage.DOT, said("550 5.1.1 who"), "closed")
    assert (replied.code, replied.enhanced, replied.text) == (550, "5.1.1", "who")


@pytest.mark.parametrize(
    ("line", "enhanced", "text"),
    [
        ("250 2.0.0 Ok", "2.0.0", "Ok"),
        ("250 2.0.0", "2.0.0", ""),
        ("250 Ok 2.0.0", None, "Ok 2.0.0"),
        ("250 2.0.0Ok", None, "2.0.0Ok"),
        ("550 4.1.1 differ", None, "4.1.1 differ"),
        ("550 5.1234.1 long", None, "5.1234.1 long"),
        ("550 5.123.123 whole", "5.123.123", "whole"),
        ("250-2.0.0 one\n250 2.0.0 two", "2.0.0", "one two"),
        ("250-one\n250 two", None, "one two"),
        ("250", None, ""),
    ],
)
def test_the_enhanced_code_is_read_off_the_text(line: str, enhanced: str | None, text: str) -> None:
    assert said(line) == Reply(int(line[:3]), enhanced, text)


def test_a_text_is_one_printable_line_of_bounded_length() -> None:
    assert cleaned("a\x00b\tc\u202ed  e ") == "a b c d e"
    assert cleaned("x" * (MAX_TEXT + 1)) == "x" * MAX_TEXT
    assert cleaned("\n" + "x" * (5 * MAX_TEXT)) == "x" * MAX_TEXT
    # Only so much is looked at, whatever comes: what stands behind it is left out.
    assert cleaned("\n" * (4 * MAX_TEXT - 1) + "xyz") == "x"


def read(*chunks: bytes) -> tuple[list[int], str | None, bool]:
    reader = ReplyReader()
    codes = [reply.code for chunk in chunks for reply in reader.feed(chunk)]
    return codes, reader.garbage, reader.pending


@pytest.mark.parametrize(
    ("stream", "codes"),
    [
        (b"250 Ok\r\n", [250]),
        (b"250 Ok\n", [250]),
        (b"250\r\n", [250]),
        (b"250-a\r\n250-b\r\n250 c\r\n354 go\r\n", [250, 354]),
        (b"200 a\r\n599 b\r\n", [200, 599]),
        (b"250-a\r\n250\r\n", [250]),
    ],
)
def test_a_reply_is_read_however_it_is_cut(stream: bytes, codes: list[int]) -> None:
    assert read(stream) == (codes, None, False)
    assert read(*(stream[n : n + 1] for n in range(len(stream)))) == (codes, None, False)


def test_a_line_keeps_all_of_its_text_whichever_way_it_ends() -> None:
    for end in (b"\r\n", b"\n"):
        (reply,) = ReplyReader().feed(b"250 2.0.0 Ok" + end)
        assert Reply.of(reply) == Reply(250, "2.0.0", "Ok")
    assert read(b"\n") == ([], "a line that is no SMTP reply", False)


@pytest.mark.parametrize(
    "line",
    [b"\r\n", b"\n", b"25\r\n", b"2x0 a\r\n", b"150 a\r\n", b"650 a\r\n", b"250_a\r\n", b"hello\r\n",
     b"\xb250 a\r\n"],
)  # fmt: skip
def test_what_is_no_reply_is_garbage_and_all_behind_it(line: bytes) -> None:
    assert read(b"220 hi\r\n" + line + b"250 Ok\r\n", b"250 Ok\r\n") == (
        [220], "a line that is no SMTP reply", False,
    )  # fmt: skip


def test_lines_of_one_reply_carry_one_code() -> None:
    codes, garbage, _ = read(b"250-a\r\n251 b\r\n250 c\r\n")
    assert codes == [] and garbage == "a reply whose lines carry different codes"


def test_a_line_may_be_so_long_and_no_longer() -> None:
    longest = b"250 ".ljust(MAX_LINE, b"x")
    assert read(longest + b"\r\n") == ([250], None, False)
    too_long = f"a line of more than {MAX_LINE} bytes"
    assert read(longest + b"x\r\n")[:2] == ([], too_long)
    # Also where its end never comes.
    assert read(longest) == ([], None, True)
    assert read(longest + b"x")[:2] == ([], too_long)


def test_a_reply_may_be_so_long_and_no_longer() -> None:
    line = b"250-".ljust(MAX_LINE, b"x") + b"\r\n"
    last = b"250 ".ljust(MAX_LINE, b"x") + b"\r\n"
    lines = MAX_REPLY // MAX_LINE - 1
    assert read(line * lines + last) == ([250], None, False)
    assert read(line * lines + last + line * lines + last) == ([250, 250], None, False)
    assert read(line * (lines + 1) + b"250 x\r\n")[:2] == (
        [], f"a reply of more than {MAX_REPLY} bytes",
    )  # fmt: skip


def test_part_of_a_reply_is_pending_until_its_end_comes() -> None:
    assert read() == ([], None, False)
    assert read(b"25") == ([], None, True)
    assert read(b"250-a\r\n") == ([], None, True)
    assert read(b"250-a\r\n", b"250 b\r\n") == ([250], None, False)


def test_the_bounds_are_those_that_are_promised() -> None:
    assert (MAX_LINE, MAX_REPLY, MAX_TEXT) == (2048, 16384, 500)
