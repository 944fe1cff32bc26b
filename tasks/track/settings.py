"""Where what comes back is read, and what is needed to know it again."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from tasks.errors import Misconfigured
from tasks.tokens import KEY_ID, Keys


class InboundSettings(BaseSettings):
    """Settings of `track.inbound` and `dripfleet inbound`; `DRIPFLEET_` and the name.

    The token secrets are the send pool's; without a Maildir and an IMAP mailbox nothing is read and
    none is needed.
    """

    model_config = SettingsConfigDict(env_prefix="DRIPFLEET_", frozen=True)

    inbound_maildir: str = Field(
        "", description="a Maildir that bounces and complaints are delivered to; empty: none"
    )
    inbound_imap: SecretStr = Field(
        SecretStr(""), description="imaps://user:password@host/INBOX that holds them; empty: none"
    )
    inbound_aside: Path = Field(
        Path("var/inbound/aside"), description="a Maildir for what is no report of ours"
    )
    secret_token: SecretStr = Field(SecretStr(""), description="signs the tokens of mails")
    token_key: str = Field("k1", pattern=f"^{KEY_ID}$", description="what that secret is called")
    secret_token_old: SecretStr = Field(
        SecretStr(""), description="earlier ones, whose tokens stay good: `k1=SECRET k0=SECRET`"
    )

    @field_validator("inbound_imap")
    @classmethod
    def _imap(cls, value: SecretStr) -> SecretStr:
        if value.get_secret_value():
            mailbox_of(value.get_secret_value())
        return value

    @property
    def keys(self) -> Keys:
        """The secrets of tokens.

        Raises:
            Misconfigured: there is none, and every token would be taken for a forged one.
        """
        if not self.secret_token.get_secret_value():
            raise Misconfigured(
                "DRIPFLEET_SECRET_TOKEN is not set here, and without it no return path is known again;"
                " set it as for the send workers"
            )
        return Keys.of(
            self.token_key,
            self.secret_token.get_secret_value(),
            self.secret_token_old.get_secret_value(),
        )


class Mailbox:
    """An IMAP mailbox as its URL names it.

    Attributes:
        name: `user@host/FOLDER`, by which its place is remembered; no secret is in it.
    """

    def __init__(self, host: str, port: int, tls: bool, user: str, password: str, folder: str):
        self.host = host
        self.port = port
        self.tls = tls
        self.user = user
        self.password = password
        self.folder = folder
        self.name = f"{user}@{host}/{folder}"


def mailbox_of(url: str) -> Mailbox:
    """Read an URL: `imaps://user:password@host:993/INBOX`; `imap://` on this machine alone.

    Raises:
        ValueError: it is none; what is secret of it is not repeated.
    """
    parts = urlsplit(url.strip())
    here = parts.hostname in ("localhost", "127.0.0.1", "::1")
    tls = parts.scheme == "imaps"
    try:
        port = parts.port or (993 if tls else 143)
    except ValueError:
        port = 0
    folder = unquote(parts.path.strip("/")) or "INBOX"
    fit = folder.isascii() and folder.isprintable() and '"' not in folder and "\\" not in folder
    if not (tls or (parts.scheme == "imap" and here)) or not parts.hostname or not port or not fit:
        raise ValueError(
            "expected imaps://user:password@host/INBOX (imap:// on this machine alone; special"
            " characters of user and password percent-encoded)"
        )
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    return Mailbox(parts.hostname, port, tls, user, password, folder)
