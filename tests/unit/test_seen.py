from __future__ import annotations

import hashlib

from tasks.audience.seen import Seen


def test_everybody_is_new_once_and_known_ever_after() -> None:
    identities = [hashlib.sha256(b"%d" % i).digest() for i in range(5_000)]
    seen = Seen()
    assert not any(seen.add(identity) for identity in identities)
    assert all(seen.add(identity) for identity in identities)


def test_an_identity_that_begins_with_zeros_is_known_too() -> None:
    seen = Seen()
    assert not seen.add(bytes(32))
    assert seen.add(bytes(32))
