"""What the edge needs to know beside its servers."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from tasks.send.mail_tokens import MailTokens


class EdgeSettings(MailTokens, BaseSettings):
    """Settings of `dripfleet api`; `DRIPFLEET_` and the name. The token secrets are the send pool's."""

    model_config = SettingsConfigDict(env_prefix="DRIPFLEET_", frozen=True)

    edge_address: str = Field("127.0.0.1", description="where it listens; TLS ends before it")
    edge_port: int = Field(8650, ge=1, le=65535, description="where it listens")
    edge_body: int = Field(2_000_000, ge=1000, description="octets that a request to /v1 may bring")
    edge_rate: str = Field(
        "600/minute",
        pattern=r"^[1-9]\d{0,8}/(second|minute|hour)$",
        description="requests to /v1 by one API key, counted in Redis",
    )
    edge_drain: float = Field(20, gt=0, description="seconds that a stop waits for answers")
    sender_name: str = Field("Example Company", description="who the pages are from")
