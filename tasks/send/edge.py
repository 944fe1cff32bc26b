"""What a mail says of the HTTP edge: the page to leave by, the one click, links and a pixel that tell.

`tasks.send.links` writes the latter into the sources; here it is put together for one bundle, and for
each message of it. Without an address of the edge a mail is what it was before there was one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tasks.errors import Permanent
from tasks.moves.opt_in import TEMPLATE as CONFIRM
from tasks.send.links import Links, Tracked, Tracking, tracked
from tasks.send.render import Bundle
from tasks.send.tokens import Keys, sign


@dataclass(frozen=True, slots=True)
class Reach:
    """What a stream's mails may say: `leaves`: one click takes the reader off (marketing)."""

    leaves: bool = False
    tracking: Tracking = "none"


class Edge:
    """The edge as the mails of one process name it.

    Args:
        links: where those of a mail come from.
        base: its public address; empty: there is none.
    """

    def __init__(self, links: Links, base: str) -> None:
        self._base = base
        self._links = links

    def of(self, bundle: Bundle, reach: Reach, keys: Keys) -> OfMail:
        """The part of the edge in the mails of a bundle."""
        if not self._base or reach.tracking == "none":
            return OfMail(self._base, self._links, reach, keys, Tracked(bundle, (), False, False))
        return OfMail(self._base, self._links, reach, keys, tracked(bundle, reach.tracking))


def unsubscribe(base: str, mailto: str, token: str) -> dict[str, str]:
    """What templates see under that name: `mailto`, and `url` where an edge is."""
    return {"mailto": mailto, **({"url": f"{base}/u/{token}"} if base else {})}


@dataclass(frozen=True, slots=True)
class OfMail:
    """What is said in the mails of one bundle; `tracked.bundle` is what is rendered."""

    base: str
    links: Links
    reach: Reach
    keys: Keys
    tracked: Tracked

    def token(self, message_id: int) -> str:
        """By which the reader of a message leaves."""
        return sign(self.keys, "unsubscribe", message_id)

    def variables(self, message_id: int, mailto: str) -> dict[str, Any]:
        """What its templates see: `unsubscribe.mailto`, `.url` where an edge is, and `links`.

        Raises:
            Permanent: it asks for a confirmation, and there is no edge to give it at.
        """
        told: dict[str, Any] = {
            "unsubscribe": unsubscribe(self.base, mailto, self.token(message_id))
        }
        if self.tracked.urls or self.tracked.opens:
            told["links"] = self.links.of(self.tracked, self.keys, message_id)
        if self.tracked.bundle.name == CONFIRM:
            told["confirm"] = {"url": self._confirm(message_id)}
        return told

    def _confirm(self, message_id: int) -> str:
        if not self.base:
            raise Permanent(
                "it leads to the edge, and DRIPFLEET_EDGE_URL names none; set it for the send workers,"
                " then `dripfleet retry`"
            )
        return f"{self.base}/confirm/{sign(self.keys, 'confirm', message_id)}"

    def one_click(self, message_id: int) -> str | None:
        """The address that `List-Unsubscribe-Post` speaks of."""
        if not self.base or not self.reach.leaves:
            return None
        return f"{self.base}/u/{self.token(message_id)}"
