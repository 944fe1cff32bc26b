"""Somebody else's mails beside ours, as figures: what can be told without a model, and is no opinion."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from statistics import median
from typing import Any, Final

from tasks.personalize.checks import offers
from tasks.personalize.review import review

_SHARE: Final = re.compile(r"\b\d{1,3}\s?%")
DAY: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Read:
    """A mail as it was received, or would be.

    Attributes:
        subject: as it is shown.
        plain: the text part; empty where there is none.
        html: the other part.
        sent_at: its Date, aware; None where it has none.
        can_leave: whether it has a List-Unsubscribe.
    """

    subject: str
    plain: str
    html: str | None
    sent_at: datetime | None = None
    can_leave: bool = True


def facts(
    mails: Sequence[Read], *, language: str = "en", sentiment: Callable[[str], float] | None = None
) -> dict[str, Any]:
    """The figures of one or several mails of a sender; medians where there are several.

    Args:
        mails: at least one.
        language: of all of them.
        sentiment: of a text, from -1 to 1.
    """
    looks = [
        review(mail.subject, mail.plain, mail.html, language=language, sentiment=sentiment)
        for mail in mails
    ]
    names = dict.fromkeys(name for look in looks for name in look.figures)
    made: dict[str, Any] = {"mails": len(mails)}
    for name in names:
        found = [look.figures[name] for look in looks if name in look.figures]
        made[name] = round(median(found), 3)
    whole = [f"{mail.subject}\n{mail.plain}" for mail in mails]
    made["words_of_offers"] = median(len(offers(text)) for text in whole)
    made["shares_in_per_cent"] = median(len(_SHARE.findall(text)) for text in whole)
    made["without_text_part"] = sum(not mail.plain.strip() for mail in mails)
    made["without_list_unsubscribe"] = sum(not mail.can_leave for mail in mails)
    made["days_between_mails"] = cadence([mail.sent_at for mail in mails if mail.sent_at])
    return made


def rows(
    theirs: Sequence[Read],
    ours: Read,
    *,
    language: str = "en",
    sentiment: Callable[[str], float] | None = None,
) -> list[dict[str, Any]]:
    """The facts of both, a row a figure; arguments as of `facts`."""
    left = facts(theirs, language=language, sentiment=sentiment)
    right = facts([ours], language=language, sentiment=sentiment)
    return [
        {"figure": name, "theirs": left.get(name), "ours": right.get(name)}
        for name in dict.fromkeys([*left, *right])
    ]


def cadence(sent: Sequence[datetime]) -> float | None:
    """The median of the days between mails; None for fewer than two."""
    ordered = sorted(sent)
    gaps = [(b - a).total_seconds() / DAY for a, b in pairwise(ordered)]
    return round(median(gaps), 2) if gaps else None
