"""What an endpoint may ask to be told of, by type or by the whole of a kind (`message.*`)."""

from __future__ import annotations

import re
from typing import Final

from tasks.errors import Permanent

TYPES: Final[dict[str, str]] = {
    "message.sent": "the relay accepted a mail",
    "message.sent_assumed": "nobody knows whether a mail arrived; its stream's policy takes it for sent",
    "message.in_doubt": "the relay did not answer after the last octet of a mail",
    "message.failed": "a mail was refused for good, or cannot be made",
    "message.suppressed": "a mail was not sent, since its reader wants or may get none",
    "message.capped": "a mail was not sent, since its reader has had enough of them",
    "message.held_out": "a mail was not sent, since its reader is in the holdout",
    "message.late": "a mail was not sent, since its time was over",
    "message.expired": "a mail was not sent in the time it had",
    "message.cancelled": "a mail was called back before it was sent",
    "enrollment.entered": "somebody came into a sequence",
    "enrollment.completed": "somebody reached the end of a sequence",
    "enrollment.exited": "somebody left a sequence before its end, with the reason",
    "enrollment.reopened": "somebody who had completed goes on with new steps",
    "subscriber.stopped": "somebody gets nothing any more, with the reason",
    "subscriber.suppressed": "an address gets nothing any more: a complaint, a hard bounce, a wish",
    "subscriber.opted_in": "somebody said yes to a topic",
    "subscriber.opted_out": "somebody said no to a topic",
    "subscriber.erased": "all that was known of somebody is gone",
    "email.clicked": "a link was followed; `machine` in its properties: by no person",
    "email.opened": "a mail was opened; `machine`: by no person",
    "email.unsubscribed": "a reader left all marketing",
    "email.bounced": "a mail came back, or was refused at once; `class`: hard, soft, message, policy",
    "email.complained": "a reader called a mail spam, and gets no marketing any more",
    "event.recorded": "something else that a subscriber did; no part of the default",
    "step.called": "a step `webhook` of a sequence called this endpoint by its name",
}
"""Type → its meaning. Other events whose names begin with `email.` are told by their name, too."""
DEFAULT: Final = ("message.*", "enrollment.*", "subscriber.*", "email.*")
"""What an endpoint is told of that asks for nothing by name."""
CALLED: Final = "step.called"
TEST: Final = "test.ping"
_GROUPS: Final = {f"{name.split('.')[0]}.*" for name in TYPES}
_EMAIL: Final = re.compile(r"email\.[a-z0-9_.]{1,100}", re.ASCII)


def checked(types: list[str] | tuple[str, ...]) -> list[str]:
    """The types an endpoint asks for, each once; nothing asked is `DEFAULT`.

    Raises:
        Permanent: there is none of that name.
    """
    wanted = sorted({*types}) or [*DEFAULT]
    for each in wanted:
        if each not in TYPES and each not in _GROUPS and not _EMAIL.fullmatch(each):
            raise Permanent(
                f"there is no type {each!r}: expected one of {', '.join(TYPES)}, or all of a kind:"
                f" {', '.join(sorted(_GROUPS))}"
            )
    return wanted
