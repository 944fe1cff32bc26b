"""What the edge needs to know beside its servers."""

from __future__ import annotations

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from tasks.send.list_headers import edge_url
from tasks.send.tokens import KEY_ID, Keys


class EdgeSettings(BaseSettings):
    """Settings of `dripfleet api`; `DRIPFLEET_` and the name. The token secrets are the send pool's."""

    model_config = SettingsConfigDict(env_prefix="DRIPFLEET_", frozen=True)

    edge_url: str = Field("", description="https://… where readers reach it, as mails name it")
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
    secret_token: SecretStr = Field(description="signs the tokens of links in mails")
    token_key: str = Field("k1", pattern=f"^{KEY_ID}$", description="what that secret is called")
    secret_token_old: SecretStr = Field(
        SecretStr(""), description="earlier ones, whose tokens stay good: `k1=SECRET k0=SECRET`"
    )

    @field_validator("edge_url")
    @classmethod
    def _edge(cls, value: str) -> str:
        return edge_url(value)

    @property
    def keys(self) -> Keys:
        """The secrets of tokens."""
        return Keys.of(
            self.token_key,
            self.secret_token.get_secret_value(),
            self.secret_token_old.get_secret_value(),
        )
