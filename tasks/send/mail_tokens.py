"""What mails and the pages that they lead to must know alike: where the edge is, and who signs."""

from __future__ import annotations

from pydantic import BaseModel, Field, SecretStr, field_validator

from tasks.send.list_headers import edge_url
from tasks.send.tokens import KEY_ID, Keys


class MailTokens(BaseModel):
    """A part of the settings of the send pool, which makes tokens, and of the edge, which takes them."""

    edge_url: str = Field(
        "", description="https://… where readers reach `dripfleet api`; empty: mails name no edge"
    )
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
