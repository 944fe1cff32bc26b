"""Webhooks: signed as everybody checks it, tried again in good time, and never into a network."""

from __future__ import annotations

import datetime as dt
import json
from base64 import b64decode
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import Misconfigured, Permanent
from tasks.webhooks import engine, kinds, target
from tasks.webhooks.engine import Answer

DAY = 86400.0


def test_a_signature_is_the_one_that_the_libraries_of_standard_webhooks_make() -> None:
    # The example of its specification.
    raw = b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = engine.signed(
        [raw], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert headers["webhook-id"] == "msg_p5jXN8AQM9LWM0D4loKWxJek"
    assert headers["webhook-timestamp"] == "1614265330"
    assert engine.shown(raw) == "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_each_endpoint_and_each_turn_has_a_secret_of_its_own_and_both_sign_for_a_while() -> None:
    made = {
        engine.secret(key, salt, n)
        for key in (b"k" * 16, b"j" * 16)
        for salt in (b"a", b"b")
        for n in (1, 2)
    }
    assert len(made) == 8 and {len(each) for each in made} == {32}
    two = engine.signed([b"new", b"old"], "evt_1", 1, b"{}")["webhook-signature"].split(" ")
    assert two == [
        engine.signed([each], "evt_1", 1, b"{}")["webhook-signature"] for each in (b"new", b"old")
    ]


def test_what_is_told_has_a_type_a_time_and_no_address_unless_it_is_given_one() -> None:
    at = dt.datetime(2026, 11, 26, 7, tzinfo=dt.timezone(dt.timedelta(hours=1)))
    told = json.loads(engine.body("message.sent", at, {"message": 7}, {"id": 3}))
    assert told == {
        "type": "message.sent",
        "timestamp": "2026-11-26T06:00:00+00:00",
        "data": {"message": 7, "subscriber": {"id": 3}},
    }


@given(st.integers(1, 500), st.floats(0, 1), st.floats(0, 10 * DAY), st.integers(100, 599))
def test_every_answer_is_delivered_again_dead_or_gone_and_the_wait_is_bounded(
    attempts: int, draw: float, age: float, status: int
) -> None:
    verdict = engine.judge(Answer(status), attempts, age, draw, 3 * DAY)
    if 200 <= status < 300:
        assert verdict.kind == "delivered"
    elif status == 410:
        assert verdict.kind == "gone"
    elif age >= 3 * DAY:
        assert verdict.kind == "dead"
    else:
        assert verdict.kind == "again"
        assert 1 <= verdict.after <= engine.LONGEST * 1.25 and age + verdict.after <= 3 * DAY + 1


def test_waits_grow_to_eight_hours_and_three_days_hold_more_than_a_dozen_tries() -> None:
    assert [round(engine.delay(n, 0.5)) for n in range(1, 10)] == [
        10, 30, 90, 270, 810, 2430, 7290, 21870, 28800,
    ]  # fmt: skip
    age, tries = 0.0, 1
    while (verdict := engine.judge(Answer(500), tries, age, 0.5, 3 * DAY)).kind == "again":
        age, tries = age + verdict.after, tries + 1
    assert verdict.kind == "dead" and 14 <= tries <= 20
    # Not all at once: what failed together is spread over half of its wait.
    assert engine.delay(3, 1.0) - engine.delay(3, 0.0) == 45
    assert engine.rest(4, 0.5) == 0 and 10 < engine.rest(5, 0.5) < engine.rest(40, 0.5) <= 3600


def test_a_wait_that_the_other_side_asks_for_is_kept_within_reason() -> None:
    now = dt.datetime(2026, 11, 26, tzinfo=dt.UTC)
    assert engine.retry_after(" 120 ", now) == 120
    assert engine.retry_after("Thu, 26 Nov 2026 00:01:00 GMT", now) == 60
    for odd in ("", "soon", "-5", "٣", "Thu, 99 Nov 2026 00:01:00 GMT"):
        assert engine.retry_after(odd, now) is None, odd
    asked = engine.judge(Answer(503, retry_after=7200), 1, 0, 0.5, 3 * DAY)
    assert asked.after == 7200
    assert engine.judge(Answer(429, retry_after=1e9), 1, 0, 0.5, 3 * DAY).after == engine.LONGEST


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/x", "https://user:pw@example.com/", "https://user@example.com/",
        "https://example.com/#x", "ftp://example.com/", "https:///x", "https://", "example.com",
        "https://exa mple.com/", "https://example.com/\n", "https://example.com:0/",
        "https://example.com:99999/", "https://[::1", "https://" + "a" * 2000 + ".com/",
        "https://ex\u00e4mple.com/", "//example.com/", "https://..", "",
    ],
)  # fmt: skip
def test_an_address_that_cannot_be_called_is_refused_when_it_is_added(url: str) -> None:
    with pytest.raises(Permanent, match=r"URL|https|called"):
        target.parse(url)


def test_an_address_keeps_its_host_port_and_query() -> None:
    assert target.parse("https://Example.com./in?a=1") == target.Target(
        "https", "example.com", 443, "/in?a=1"
    )
    assert target.parse("https://[2606:4700::1111]:8443").port == 8443
    assert target.parse("http://inside.example/", plain=True).scheme == "http"


INSIDE = [
    "127.0.0.1", "127.9.9.9", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254",
    "169.254.170.2", "100.64.0.1", "100.100.100.200", "192.0.0.192", "192.0.2.1", "198.18.0.1",
    "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255",
    "168.63.129.16", "::", "::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1",
    "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "2001:0:4136:e378::1",
    "2001:db8::1", "100::1", "fec0::1",
]  # fmt: skip


@pytest.mark.parametrize("address", INSIDE)
def test_no_address_inside_a_network_is_called_though_another_one_of_the_name_is_public(
    address: str,
) -> None:
    for found in ([address], ["93.184.215.14", address], [address, "2606:4700::1111"]):
        with pytest.raises(target.Refused, match="not public"):
            target.permitted("evil.example", found)


def test_public_addresses_are_called_and_those_of_networks_that_an_operator_named() -> None:
    found = target.permitted("a.example", ["93.184.215.14", "2606:4700::1111", "93.184.215.14"])
    assert [str(each) for each in found] == ["93.184.215.14", "2606:4700::1111"]
    own = target.networks("10.1.0.0/16 ::1/128")
    assert target.permitted("a.example", ["10.1.2.3", "::1", "93.184.215.14"], own)
    with pytest.raises(target.Refused):
        target.permitted("a.example", ["10.2.0.1"], own)
    # Plain http stays inside, whatever else is public.
    with pytest.raises(target.Refused):
        target.permitted("a.example", ["10.1.2.3", "93.184.215.14"], own, inside=True)
    with pytest.raises(target.Refused, match="no address"):
        target.permitted("a.example", [])
    with pytest.raises(Misconfigured, match=r"DRIPFLEET_WEBHOOK_NETWORKS.*10\.1\.0\.0/16"):
        target.networks("10.0.0.1/8")


@given(st.integers(0, 2**32 - 1))
def test_an_address_wrapped_into_another_kind_is_no_more_public_than_itself(number: int) -> None:
    inner = IPv4Address(number)
    mapped = IPv6Address(f"::ffff:{inner}")
    assert target.public(mapped) == target.public(inner)
    for wrapped in (f"64:ff9b::{inner}", f"::{inner}"):
        assert not target.public(IPv6Address(wrapped))


def test_types_are_those_that_there_are() -> None:
    assert kinds.checked([]) == [*kinds.DEFAULT]
    assert kinds.checked(["message.sent", "email.bounced", "message.sent", "event.*"]) == [
        "email.bounced", "event.*", "message.sent",
    ]  # fmt: skip
    for odd in ("*", "message", "message.sentt", "email.", "email.X", "purchase"):
        with pytest.raises(Permanent, match="there is no type"):
            kinds.checked([odd])
