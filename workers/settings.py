"""The settings panel: each specialism owns a small frozen class, and all are checked at boot.

Every setting is an environment variable that begins with DRIPFLEET_. What is wrong is said in one
message, all of it; a secret is never part of it.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import TypeVar, cast
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from tasks.errors import Misconfigured

Settings = TypeVar("Settings", bound=BaseSettings)

REDIS_SCHEMES = ("redis", "rediss", "sentinel")
CLUSTER_SCHEMES = ("redis+cluster", "rediss+cluster", "redis-cluster", "rediss-cluster", "cluster")
DATABASE_SCHEMES = ("postgresql", "postgres")


class RedisSettings(BaseSettings):
    """Where the queues are: `DRIPFLEET_REDIS_URL`."""

    model_config = SettingsConfigDict(env_prefix="DRIPFLEET_", frozen=True)

    redis_url: SecretStr = Field(description="redis://:password@host:6379/0 (rediss, sentinel)")
    redis_sentinel_master: str | None = Field(
        None, description="name of the master, with a sentinel:// URL"
    )

    @field_validator("redis_url")
    @classmethod
    def _scheme(cls, value: SecretStr) -> SecretStr:
        # Several sentinels stand in one URL, divided by semicolons.
        for url in value.get_secret_value().split(";"):
            if url.partition("://")[0].lower() in CLUSTER_SCHEMES:
                raise ValueError(
                    "names a Redis Cluster, which cannot hold the queues: a message moves between"
                    " keys of different slots; name one server (redis://, rediss://) or sentinels"
                )
            _require_scheme(url, REDIS_SCHEMES)
        return value

    @model_validator(mode="after")
    def _master(self) -> RedisSettings:
        sentinels = self.redis_url.get_secret_value().startswith("sentinel://")
        if sentinels and not self.redis_sentinel_master:
            raise ValueError(
                "DRIPFLEET_REDIS_SENTINEL_MASTER is not set (the name by which the sentinels of"
                " DRIPFLEET_REDIS_URL know their master)"
            )
        return self


class FleetSettings(BaseSettings):
    """What the processes of the fleet need beside their servers. Durations in seconds."""

    model_config = SettingsConfigDict(env_prefix="DRIPFLEET_", frozen=True)

    home: Path = Field(Path("var"), description="logs, secrets, journals, embedded data")
    log_level: str = Field("info", pattern="(?i)^(debug|info|warning|error)$")
    flower_port: int = Field(5555, ge=1, le=65535, description="or the next free one, of ten")
    drain_wait: float = Field(
        630, gt=0, description="a stopping send worker waits so long for the replies it is owed"
    )
    scan_every: float = Field(1, gt=0, description="beat: the planner")
    dispatch_every: float = Field(1, gt=0, description="beat: the dispatcher")
    reap_every: float = Field(5, gt=0, description="beat: the reaper")
    resolve_every: float = Field(5, gt=0, description="beat: the resolver")
    inbound_every: float = Field(15, gt=0, description="beat: mailboxes for bounces are read")
    restart_max: float = Field(
        30, ge=0.5, description="longest pause before `up` starts again what keeps dying"
    )


class Panel:
    """Settings classes, read from the environment together; `panel[RedisSettings]` gives one.

    Raises:
        Misconfigured: with everything that is wrong in all of them.
    """

    def __init__(self, *classes: type[BaseSettings]) -> None:
        self._read: dict[type[BaseSettings], BaseSettings] = {}
        faults: list[str] = []
        for kind in dict.fromkeys(classes):
            try:
                self._read[kind] = kind()
            except ValidationError as error:
                faults += _faults(kind, error)
                continue
            faults += _database_faults(self._read[kind])
        if faults:
            many = (
                f"{len(faults)} settings are wrong" if len(faults) > 1 else "One setting is wrong"
            )
            raise Misconfigured("\n  ".join([f"{many}:", *dict.fromkeys(faults)]))

    def __getitem__(self, kind: type[Settings]) -> Settings:
        return cast(Settings, self._read[kind])


def panel(*classes: type[BaseSettings]) -> Panel:
    """Read and check the settings that a process needs; see `Panel`."""
    return Panel(*classes)


def named(path: str) -> type[BaseSettings]:
    """The settings class at `module:Class`, imported now."""
    module, _, name = path.partition(":")
    return cast(type[BaseSettings], getattr(import_module(module), name))


def variable(kind: type[BaseSettings], field: str) -> str:
    """The environment variable of a field."""
    return f"{kind.model_config.get('env_prefix', '')}{field}".upper()


def _faults(kind: type[BaseSettings], error: ValidationError) -> list[str]:
    """One line for each thing that is wrong; of the value only what is no secret."""
    lines = []
    for item in error.errors(include_url=False, include_context=False):
        message = item["msg"].removeprefix("Value error, ")
        if not item["loc"]:  # a check over several fields
            lines.append(message)
            continue
        field = str(item["loc"][0])
        name = variable(kind, field)
        expected = getattr(kind.model_fields.get(field), "description", None)
        hint = f" ({expected})" if expected else ""
        if item["type"] == "missing":
            lines.append(f"{name} is not set{hint}")
        else:
            lines.append(f"{name}: {message}{hint}")
    return lines


def _database_faults(value: BaseSettings) -> list[str]:
    """The one URL whose class, in models, does not look at it; asked by name, without its imports."""
    url = getattr(value, "database_url", None)
    if isinstance(url, SecretStr):
        try:
            _require_scheme(url.get_secret_value(), DATABASE_SCHEMES)
        except ValueError as fault:
            return [f"DRIPFLEET_DATABASE_URL: {fault}"]
    return []


def _require_scheme(url: str, schemes: tuple[str, ...]) -> None:
    try:
        parts = urlsplit(url)
        host, scheme = parts.hostname, parts.scheme
        _ = parts.port
    except ValueError:
        raise ValueError("is no URL; expected scheme://user:password@host:port/name") from None
    if scheme not in schemes:
        # What stands before the colon may be a password somebody put in the wrong variable.
        shown = f"{scheme}://" if "://" in url and scheme.isalpha() else "no scheme"
        raise ValueError(f"begins with {shown}, expected {' or '.join(s + '://' for s in schemes)}")
    if not host and "host=" not in parts.query and not parts.path.startswith("/"):
        raise ValueError("names no host; expected scheme://user:password@host:port/name")


def clear_blank(environment: dict[str, str] | os._Environ[str] = os.environ) -> None:
    """Take a variable that is set to nothing for one that is not set."""
    for name in [n for n, v in environment.items() if n.startswith("DRIPFLEET_") and not v.strip()]:
        del environment[name]
