"""Where a stream hands its mail to: one SMTP URL, taken apart and judged.

``smtp://USER:PASSWORD@HOST:PORT?starttls=require|optional|never&ca=FILE`` speaks plain SMTP and
then STARTTLS (RFC 3207); ``smtps://…`` speaks TLS from the first byte (RFC 8314 §3.3).
Without ``starttls`` a relay on this machine is spoken to in the clear and any other must offer it.
``connections=N`` is how many a process holds open, ``rate=N`` how many mails a second it hands over at
most, ``mails=N`` how many go over a connection before it is closed; ``token=FILE`` logs in by XOAUTH2 with the access token that somebody keeps fresh in FILE.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from re import ASCII
from re import compile as pattern
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from tasks.errors import Misconfigured

Security = Literal["none", "optional", "starttls", "tls"]
"""none: never TLS; optional: where offered; starttls: or nothing is sent; tls: from the first byte."""

EXAMPLE = "smtp://user:password@mail.example.com:587?starttls=require"
_STARTTLS: dict[str, Security] = {"never": "none", "optional": "optional", "require": "starttls"}
_OPTIONS = ("starttls", "ca", "connections", "rate", "token", "mails")
_HOST = pattern(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9_.])?", ASCII)


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long each wait before the dot may last, in seconds (RFC 5321 §4.5.3.2 gives the values).

    The wait after the dot is an argument of ``Connection.finish``: leases hang on it.
    """

    connect: float = 30.0
    command: float = 300.0
    body: float = 180.0


@dataclass(frozen=True, slots=True)
class Relay:
    """One SMTP server and how to speak to it; prints its password as ``***``."""

    host: str
    port: int
    security: Security = "none"
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    timeouts: Timeouts = Timeouts()
    connections: int | None = None
    rate: float | None = None
    token_file: str | None = None
    mails: int | None = None

    def __repr__(self) -> str:
        secret = "None" if self.password is None else "***"
        return f"Relay({str(self)!r}, username={self.username!r}, password={secret})"

    def __str__(self) -> str:
        """The URL without user, password and options: fit for logs and for `doctor`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'smtps' if self.security == 'tls' else 'smtp'}://{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """True if the name can only mean this machine."""
        return self.host.rstrip(".").lower() == "localhost" or is_loopback_address(self.host)

    @property
    def credentials(self) -> tuple[str, str] | None:
        """User and password, or None where the relay asks for none."""
        if self.username is None or self.password is None:
            return None
        return self.username, self.password

    def ssl_context(self) -> ssl.SSLContext:
        """The context that verifies this relay's certificate and name.

        Raises:
            Misconfigured: if the file named by ``ca`` cannot be read as certificates.
        """
        return _verifying(self.ca_file)

    @classmethod
    def parse(cls, url: str, *, timeouts: Timeouts | None = None) -> Relay:
        """Take an SMTP URL apart.

        Raises:
            Misconfigured: with one sentence that never repeats the URL, which may hold a password.
        """
        if not url or any(c.isspace() or not c.isprintable() for c in url):
            raise _bad("is empty or holds a space or control character")
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise _bad(
                "has a host or port that cannot be read (percent-encode / ? # @ in a password)"
            ) from None
        if parts.scheme not in ("smtp", "smtps"):
            raise _bad("must begin with smtp:// or smtps://")
        host = parts.hostname or ""
        if not (_HOST.fullmatch(host) or _is_address(host)):
            raise _bad("names no host, or one that is no ASCII host name or IP address")
        if parts.path not in ("", "/") or parts.fragment:
            raise _bad("has a path or fragment, where only host, port and options may stand")
        if port == 0:
            raise _bad("names port 0, where 1 to 65535 may stand")
        options = _options(parts.query)
        token_file = options.get("token")
        username, password = _credentials(parts.username, parts.password, token_file)
        implicit = parts.scheme == "smtps"
        if implicit and "starttls" in options:
            raise _bad("asks for starttls on smtps://, which speaks TLS from the first byte")
        relay = cls(
            host=host,
            port=port or (465 if implicit else 25),
            username=username,
            password=password,
            ca_file=options.get("ca"),
            timeouts=timeouts or Timeouts(),
            security="tls",
            connections=_limit(options, "connections", whole=True),
            rate=_limit(options, "rate"),
            token_file=token_file,
            mails=_limit(options, "mails", whole=True),
        )
        if implicit:
            return relay
        asked = options.get("starttls", "never" if relay.is_loopback else "require")
        if asked not in _STARTTLS:
            raise _bad("has a starttls that is none of require, optional, never")
        security = _STARTTLS[asked]
        if username is not None and security == "none" and not relay.is_loopback:
            raise _bad("would send its password in the clear; say starttls=require")
        return replace(relay, security=security)


def is_loopback_address(host: str) -> bool:
    """True for 127.0.0.0/8, ::1, and the former mapped into IPv6; False for names."""
    try:
        address = ip_address(host)
    except ValueError:
        return False
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


def _options(query: str) -> dict[str, str]:
    pairs = parse_qsl(query, keep_blank_values=True)
    options = dict(pairs)
    if len(options) != len(pairs):
        raise _bad("gives an option twice")
    if unknown := options.keys() - set(_OPTIONS):
        raise _bad(f"has {len(unknown)} unknown option(s); known are {', '.join(_OPTIONS)}")
    for name in ("ca", "token"):
        if options.get(name) == "":
            raise _bad(f"has a {name} that names no file")
    return options


def _limit(options: Mapping[str, str], name: str, *, whole: bool = False) -> Any:
    """A limit's number, None where there is none."""
    given = options.get(name)
    if given is None:
        return None
    form, least, most = (r"\d{1,4}", 1, 2000) if whole else (r"\d{1,6}(\.\d{1,3})?", 0.01, 100_000)
    number = float(given) if pattern(form, ASCII).fullmatch(given) else 0.0
    if not least <= number <= most:
        raise _bad(f"has a {name} that is no number from {least:g} to {most:g}")
    return int(number) if whole else number


def _credentials(
    username: str | None, password: str | None, token_file: str | None
) -> tuple[str | None, str | None]:
    if token_file is not None:
        if not username or password is not None:
            raise _bad("has a token, which goes with a user and without a password")
        return unquote(username), None
    if username is None and password is None:
        return None, None
    if not username or not password:
        raise _bad("has a user without a password, or a password without a user")
    user, secret = unquote(username), unquote(password)
    if "\0" in user + secret:
        raise _bad("has a NUL in user or password, which AUTH PLAIN cannot carry")
    return user, secret


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _bad(fault: str) -> Misconfigured:
    return Misconfigured(f"The SMTP URL {fault}; expected something like {EXAMPLE}")


@lru_cache(maxsize=16)
def _verifying(ca_file: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ValueError) as error:
        raise Misconfigured(
            f"The SMTP URL's ca file cannot be read as PEM certificates ({type(error).__name__}); "
            "expected a readable file with at least one certificate"
        ) from error
