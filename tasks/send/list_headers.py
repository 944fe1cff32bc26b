"""The headers by which a mail program shows "unsubscribe": RFC 2369, and RFC 8058 for one click."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

ONE_CLICK: Final = "List-Unsubscribe=One-Click"


def list_headers(mailto: str, one_click: str | None) -> list[tuple[str, str]]:
    """`List-Unsubscribe`, and with an https address the `List-Unsubscribe-Post` beside it.

    The address comes before the mailto: programs that know one click alone take the first.

    Args:
        mailto: a whole `mailto:` URL.
        one_click: what answers a POST by taking the reader off; None where no edge is, or the mail
            is none that one leaves.
    """
    if one_click is None:
        return [("List-Unsubscribe", f"<{mailto}>")]
    return [
        ("List-Unsubscribe", f"<{one_click}>,\r\n <{mailto}>"),
        ("List-Unsubscribe-Post", ONE_CLICK),
    ]


def edge_url(given: str) -> str:
    """The public address of the edge, without a slash at its end; empty: there is none.

    Raises:
        ValueError: it is neither https nor on this machine, or holds more than host and path.
    """
    given = given.strip().rstrip("/")
    if not given:
        return ""
    parts = urlsplit(given)
    here = parts.hostname in ("localhost", "127.0.0.1", "::1")
    plain = given.isascii() and given.isprintable() and not {*given} & {*" <>,;\"'\\"}
    if (
        not parts.hostname
        or not (parts.scheme == "https" or (parts.scheme == "http" and here))
        or parts.query
        or parts.fragment
        or parts.username
        or not plain
        or len(given) > 200
    ):
        raise ValueError(
            "expected https://host, or https://host/path, by which readers reach `dripfleet api` (http"
            " on this machine alone)"
        )
    return given
