"""What is needed to know a provider's webhooks from everybody else's; without it they are not taken."""

from __future__ import annotations

from functools import cached_property

from pydantic import Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from workers.edge.providers import sendgrid


class ProviderSettings(BaseSettings):
    """Settings of `/hooks/…` of `dripfleet api`; `DRIPFLEET_` and the name."""

    model_config = SettingsConfigDict(env_prefix="DRIPFLEET_", frozen=True)

    hook_ses_topics: str = Field(
        "", description="ARNs of the SNS topics whose messages are taken, parted by blanks"
    )
    hook_sendgrid_key: str = Field(
        "", description="verification key of SendGrid's signed event webhook"
    )
    hook_mailgun_key: SecretStr = Field(SecretStr(""), description="Mailgun's webhook signing key")
    hook_postmark_user: str = Field("", description="of basic authentication, for Postmark")
    hook_postmark_password: SecretStr = Field(SecretStr(""), description="likewise")
    hook_postmark_path: SecretStr = Field(
        SecretStr(""),
        description="the last part of Postmark's path: letters and digits, 16 or more",
    )

    @field_validator("hook_ses_topics")
    @classmethod
    def _topics(cls, value: str) -> str:
        if odd := [each for each in value.split() if not each.startswith("arn:aws")]:
            raise ValueError(
                f"{odd[0][:60]!r} is no ARN; expected arn:aws:sns:REGION:ACCOUNT:TOPIC"
            )
        return value

    @field_validator("hook_sendgrid_key")
    @classmethod
    def _key(cls, value: str) -> str:
        if value:
            sendgrid.public_key(value)
        return value

    @model_validator(mode="after")
    def _postmark(self) -> ProviderSettings:
        told = (
            self.hook_postmark_user,
            self.hook_postmark_password.get_secret_value(),
            self.hook_postmark_path.get_secret_value(),
        )
        if any(told) and not (all(told) and len(told[2]) >= 16 and told[2].isalnum()):
            raise ValueError(
                "DRIPFLEET_HOOK_POSTMARK_USER, _PASSWORD and _PATH belong together, and the path has 16"
                " letters and digits or more; set all three"
            )
        return self

    @cached_property
    def topics(self) -> frozenset[str]:
        """The SNS topics that are ours."""
        return frozenset(self.hook_ses_topics.split())
