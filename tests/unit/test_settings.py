"""Settings: everything that is wrong is said at once, and no secret with it."""

from __future__ import annotations

import pytest

from models.session import DatabaseSettings
from tasks.errors import Misconfigured
from tasks.moves.settings import DeliverySettings
from workers.settings import FleetSettings, RedisSettings, clear_blank, panel, variable


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [n for n in os.environ if n.startswith("DRIPFLEET_")]:
        monkeypatch.delenv(name)


def test_all_that_is_wrong_is_said_in_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIPFLEET_REDIS_URL", "http://127.0.0.1:6379")
    monkeypatch.setenv("DRIPFLEET_FLOWER_PORT", "seventy")
    monkeypatch.setenv("DRIPFLEET_ARMED_LEASE", "1")
    with pytest.raises(Misconfigured) as caught:
        panel(DatabaseSettings, RedisSettings, FleetSettings, DeliverySettings)
    said = str(caught.value)
    assert said.startswith("4 settings are wrong:")
    assert "DRIPFLEET_DATABASE_URL is not set" in said
    assert "DRIPFLEET_REDIS_URL: begins with http://, expected redis:// or rediss://" in said
    assert "DRIPFLEET_FLOWER_PORT: " in said
    assert "DRIPFLEET_REPLY_WAIT (600 s) must be less than DRIPFLEET_ARMED_LEASE (1 s)" in said


@pytest.mark.parametrize(
    "url",
    [
        "http://user:hunter2@cache/0",
        "redis://user:hunter2@:port/0",
        "user:hunter2@cache",
        "hunter2",
        "hunter2:hunter2@cache",
        "redis://",
    ],
)
def test_a_wrong_url_is_refused_without_its_password(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIPFLEET_REDIS_URL", url)
    monkeypatch.setenv("DRIPFLEET_DATABASE_URL", url)
    with pytest.raises(Misconfigured) as caught:
        panel(DatabaseSettings, RedisSettings)
    said = str(caught.value)
    assert "DRIPFLEET_REDIS_URL: " in said and "DRIPFLEET_DATABASE_URL: " in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hunter2@127.0.0.1:6379/0",
        "rediss://cache.example.net:6380/1",
        "sentinel://a:26379;sentinel://b:26379",
    ],
)
def test_every_kind_of_redis_passes_and_prints_no_secret(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRIPFLEET_REDIS_URL", url)
    monkeypatch.setenv("DRIPFLEET_REDIS_SENTINEL_MASTER", "main")
    read = panel(RedisSettings)[RedisSettings]
    assert read.redis_url.get_secret_value() == url
    assert "hunter2" not in repr(read)


@pytest.mark.parametrize("url", ["postgresql:///db?host=/run/pg", "postgres://u@h:5432/d"])
def test_a_database_may_be_a_socket_or_a_host(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRIPFLEET_DATABASE_URL", url)
    assert panel(DatabaseSettings)[DatabaseSettings].database_url.get_secret_value() == url


def test_a_variable_set_to_nothing_is_not_set() -> None:
    environment = {"DRIPFLEET_REDIS_URL": " ", "DRIPFLEET_HOME": "x", "PATH": ""}
    clear_blank(environment)
    assert environment == {"DRIPFLEET_HOME": "x", "PATH": ""}


def test_a_field_knows_its_variable() -> None:
    assert variable(FleetSettings, "scan_every") == "DRIPFLEET_SCAN_EVERY"
