"""What the audience needs from its surroundings: the key of its identities."""

from __future__ import annotations

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from tasks.errors import Misconfigured


class AudienceSettings(BaseSettings):
    """`DRIPFLEET_SECRET_ADDRESS`: the key under which addresses become identities.

    It is for good: under another key every subscriber would be somebody new.
    """

    model_config = SettingsConfigDict(env_prefix="DRIPFLEET_", frozen=True)

    secret_address: SecretStr = Field(min_length=16, description="key of the address HMAC")

    @property
    def key(self) -> bytes:
        """The secret as the HMAC takes it."""
        return self.secret_address.get_secret_value().encode()


def load() -> AudienceSettings:
    """The settings from the environment.

    Raises:
        Misconfigured: the secret is missing or shorter than 16 characters.
    """
    try:
        return AudienceSettings()
    except ValidationError:
        raise Misconfigured(
            "DRIPFLEET_SECRET_ADDRESS: expected a secret of 16 characters or more, the same on"
            " every machine and for good; set it, for example from `openssl rand -hex 32`"
        ) from None
