"""How positive an English text sounds, by VADER (Hutto and Gilbert, ICWSM-14): a lexicon and rules."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

from tasks.errors import Misconfigured


@cache
def scorer() -> Callable[[str], float]:
    """The compound score of a text, from -1 to 1.

    Raises:
        Misconfigured: the extra `content` is not installed.
    """
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError:
        raise Misconfigured(
            "sentiment needs the extra `content`, which is not installed here: pip install"
            " dripfleet[content]"
        ) from None
    analyzer: Any = SentimentIntensityAnalyzer()
    return lambda text: float(analyzer.polarity_scores(text)["compound"])
