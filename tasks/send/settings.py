"""What the send pool needs to know: the relay, the sender, and how much it takes on at once."""

from __future__ import annotations

from dataclasses import replace
from email.utils import parseaddr
from pathlib import Path

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from tasks import names
from tasks.send.compliance import EXAMPLE_POSTAL, Mode
from tasks.send.content import Sender
from tasks.send.mail_tokens import MailTokens


class SendSettings(MailTokens, BaseSettings):
    """Settings of the send pool; `DRIPFLEET_` and the name.

    `smtp_url` is the relay of streams that name none of their own.
    """

    model_config = SettingsConfigDict(env_prefix="DRIPFLEET_", frozen=True)

    smtp_url: SecretStr = Field(description="smtp://user:password@host:port")
    connections: int = Field(32, ge=1, le=2000, description="SMTP connections a relay and process")
    window: int = Field(2000, ge=1, description="messages that one process holds at most")
    helo_name: str = Field("localhost", description="how we introduce ourselves to the relay")
    sender_name: str = Field("Example Company", description="the name in From")
    sender_address: str = Field("hello@example.com", description="the address in From")
    bounce_address: str = Field("", description="the envelope's sender; the sender's if empty")
    postal_address: str = Field(EXAMPLE_POSTAL, description="at the foot of every mail")
    unsubscribe_mailto: str = Field(
        "unsubscribe@example.com", description="where List-Unsubscribe mails go"
    )
    dkim_keys: str = Field(
        "",
        description="DOMAIN/SELECTOR=FILE, several parted by blanks; `relay` where the relay signs",
    )
    compliance: Mode = Field(
        "hold", description="marketing that lacks what providers ask for: `hold` it, or `warn`"
    )
    mx_lookups: bool = Field(
        True,
        description="whether the MX records of a recipient's domain tell whose limits hold for it;"
        " asked only where a relay has limits",
    )
    seed_list: str = Field(
        "", description="addresses that `content send` writes to, parted by blanks"
    )
    journal_dir: Path = Field(Path("var/journals"), description="on a local disk of this machine")
    region: str = Field(
        "",
        pattern=f"^({names.REGION})?$",
        description="a send worker of this machine answers streams of this region only; empty:"
        " those without one",
    )
    drain_wait: float = Field(
        630, gt=0, description="seconds that a stop waits for replies to dots already written"
    )

    @property
    def sender(self) -> Sender:
        """Who streams write as that name no sender of their own."""
        return Sender(
            self.sender_name, self.sender_address, self.postal_address, self.unsubscribe_mailto
        )

    def writes_as(self, own: str | None) -> Sender:
        """Who a stream writes as: its own sender, `Name <address>`, or that of the settings."""
        if not own:
            return self.sender
        name, address = parseaddr(own)
        return replace(self.sender, name=name or self.sender_name, address=address)
