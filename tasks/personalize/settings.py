"""What the personalize pool needs to know: the model's server, its patience, its prices and budgets."""

from __future__ import annotations

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from tasks.personalize.prices import Prices


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

    @property
    def price_table(self) -> Prices:
        """The prices, read."""
        return Prices.parse(self.prices)
