"""What a marketing stream must hold before it sends, and how a home signs for the sink that ships."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tasks.send.compliance import EXAMPLE_POSTAL, HELD, Piece, Signs, missing, pieces, why_held
from tasks.send.content import Sender
from tasks.send.dkim import SIGNED, Keyring
from workers.embedded.signing import make_key, signing_variables

SHOP = Sender("Shop", "news@mail.shop.example", "Shop, 2 Real Street, Town", "stop@shop.example")
EDGE = "https://go.shop.example"
OURS = Signs(domains=["shop.example"])


def lacks(sender: Sender = SHOP, edge: str = EDGE, signs: Signs = OURS) -> list[Piece]:
    return missing(pieces(sender, edge, signs))


def test_a_stream_that_holds_everything_is_not_held() -> None:
    found = pieces(SHOP, EDGE, OURS)
    assert missing(found) == []
    assert why_held(found, SHOP, "hold") is None
    assert [each.name for each in found] == [
        "postal address", "one-click unsubscribe", "aligned DKIM signature", "text part",
    ]  # fmt: skip


def test_each_piece_that_is_not_there_is_named_with_its_next_move() -> None:
    for sender in (
        replace(SHOP, postal_address=" "),
        replace(SHOP, postal_address=EXAMPLE_POSTAL),
    ):
        (piece,) = lacks(sender)
        assert piece.name == "postal address" and "DRIPFLEET_POSTAL_ADDRESS" in piece.next
    for edge in ("", "http://127.0.0.1:8650"):
        (piece,) = lacks(edge=edge)
        assert piece.name == "one-click unsubscribe" and "DRIPFLEET_EDGE_URL" in piece.next
    (piece,) = lacks(replace(SHOP, unsubscribe_mailto="unsubscribe@example.com"))
    assert "DRIPFLEET_UNSUBSCRIBE_MAILTO" in piece.next
    (piece,) = lacks(signs=Signs())
    assert "nobody signs" in piece.says and "a key of mail.shop.example" in piece.next
    (piece,) = lacks(signs=Signs(others=["other.example"]))
    assert piece.says == (
        "no DKIM key is aligned with From: mail.shop.example, keys of other.example"
    )
    assert lacks(signs=Signs(relay=True)) == []


def test_the_reason_of_the_hold_names_all_pieces_in_one_line() -> None:
    found = pieces(replace(SHOP, postal_address=""), "", Signs())
    why = why_held(found, SHOP, "hold")
    assert why is not None and why.startswith(HELD) and "\n" not in why
    for said in ("DRIPFLEET_POSTAL_ADDRESS", "DRIPFLEET_EDGE_URL", "DRIPFLEET_DKIM_KEYS"):
        assert said in why
    assert why_held(found, SHOP, "warn") is None


def test_an_example_is_told_and_not_held() -> None:
    example = Sender("Example", "hello@example.com", EXAMPLE_POSTAL, "unsubscribe@example.com")
    found = pieces(example, "", Signs())
    assert [each.name for each in missing(found)] == [
        "one-click unsubscribe", "aligned DKIM signature",
    ]  # fmt: skip
    assert why_held(found, example, "hold") is None
    assert pieces(example, "http://127.0.0.1:8650", Signs())[1].met
    # Nobody is an example by a name that merely ends like one.
    assert why_held(found, replace(example, address="a@notexample.com"), "hold") is not None


def test_a_signature_of_ours_covers_both_headers_of_the_one_click_and_adds_of_neither() -> None:
    for name in ("List-Unsubscribe", "List-Unsubscribe-Post"):
        assert SIGNED.count(name) == 2


def test_a_home_signs_for_its_sink_with_one_key_and_for_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "secrets").mkdir()
    assert signing_variables(tmp_path, {}) == {}
    make_key(tmp_path)
    kept = (tmp_path / "secrets" / "dkim.pem").read_bytes()
    make_key(tmp_path)
    assert (tmp_path / "secrets" / "dkim.pem").read_bytes() == kept
    told = signing_variables(tmp_path, {})
    (signer,) = Keyring.of(told["DRIPFLEET_DKIM_KEYS"])
    assert (signer.domain, signer.selector) == ("example.com", "demo")
    assert signing_variables(tmp_path, {"DRIPFLEET_SENDER_ADDRESS": "a@shop.example"}) == {}
    assert signing_variables(tmp_path, {"DRIPFLEET_DKIM_KEYS": "relay"}) == {}
