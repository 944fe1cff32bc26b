"""What the personalize pool needs to know: the model's server, its patience, its prices and budgets."""

from __future__ import annotations

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from tasks.personalize.prices import Prices, parse_shares


class ModelSettings(BaseSettings):
    """The server of a model, any that speaks OpenAI's API, and what it may cost a day.

    Which model it is asked for is ``DRIPFLEET_MODEL``. Durations in seconds; money in the currency
    of the price table.
    """

    model_config = SettingsConfigDict(env_prefix="DRIPFLEET_MODEL_", frozen=True)

    url: str = Field("", description="base URL such as https://api.openai.com/v1; empty: no model")
    key: SecretStr = Field(SecretStr(""), description="its API key")
    timeout: float = Field(30, gt=0, le=600, description="of one call")
    concurrency: int = Field(8, ge=1, le=256, description="calls side by side in one worker")
    retries: int = Field(1, ge=0, le=5, description="tries after an answer that a check refused")
    output_tokens: int = Field(600, ge=16, le=16_000, description="longest answer")
    prices: str = Field("", description="a million tokens in and out: MODEL=0.25/2.00,MODEL=…")
    budget_day: float = Field(10, ge=0, description="of the whole fleet, a day of UTC")
    budget_sequence: float = Field(5, ge=0, description="of each sequence, a day of UTC")
    lease: float = Field(120, gt=0, description="a text that took longer is taken for lost")
    yield_share: float = Field(
        0.1, gt=0, le=1, description="of its time for texts while due mails wait; 1: never less"
    )
    yield_after: float = Field(
        1, gt=0, le=3600, description="a mail that is due and not taken for so long waits"
    )
    batch_min: int = Field(
        500, ge=0, description="texts from which on a batch is made; 0: never by the Batch API"
    )
    batch_lead: float = Field(
        90_000, gt=0, description="a text goes by batch if it is needed no sooner than this"
    )
    batch_spare: float = Field(
        3600, ge=0, description="before a text is needed: no batch is waited for any more"
    )
    batch_gather: float = Field(300, ge=0, description="for so long texts come together in a batch")
    batch_poll: float = Field(60, gt=0, description="between two looks at a batch")
    batch_prices: str = Field(
        "", description="share of its price that a model has by batch: MODEL=0.5; unnamed: 0.5"
    )

    @field_validator("url")
    @classmethod
    def _scheme(cls, value: str) -> str:
        if value and not value.startswith(("http://", "https://")):
            raise ValueError("expected http:// or https:// and the path of the API, such as /v1")
        return value.rstrip("/")

    @field_validator("prices")
    @classmethod
    def _table(cls, value: str) -> str:
        Prices.parse(value)
        return value

    @field_validator("batch_prices")
    @classmethod
    def _shares(cls, value: str) -> str:
        parse_shares(value)
        return value

    @property
    def price_table(self) -> Prices:
        """The prices, read."""
        return Prices.parse(self.prices, parse_shares(self.batch_prices))
