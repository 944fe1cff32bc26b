"""A real worker over TLS and behind sentinels: it takes a doorbell and answers it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
from pydantic import SecretStr

from models.session import Database
from tasks import names
from tasks.base import ring
from tasks.canary import store as canaries
from tests.live.fleet import eventually
from workers.broker import MASTER, client
from workers.celery import build
from workers.embedded import launch
from workers.embedded.valkey import find_program
from workers.settings import RedisSettings

POOL = "upkeep"


@contextmanager
def worker(database_url: str, folder: Path, redis_url: str, **more: str) -> Iterator[None]:
    """`dripfleet worker upkeep` as a process of its own."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith("DRIPFLEET_")}
    environment = {
        **plain,
        **more,
        "DRIPFLEET_DATABASE_URL": database_url,
        "DRIPFLEET_REDIS_URL": redis_url,
        "DRIPFLEET_HOME": str(folder / "home"),
        "DRIPFLEET_SECRET_ADDRESS": "a secret of the tests",
        "DRIPFLEET_SECRET_MESSAGE_ID": "a secret of the tests",
        "DRIPFLEET_SECRET_TOKEN": "a secret of the tests",
    }
    with (folder / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "workers", "worker", POOL],
            env=environment,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
        )
    try:
        yield
        assert process.poll() is None, (folder / "worker.log").read_text()
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def answers(database: Database, redis_url: str, master: str | None = None) -> Callable[[], bool]:
    """Ring now, through a broker of our own; the condition that the worker has answered it."""
    with database.transaction() as connection:
        rung_at = canaries.now(connection)
    settings = RedisSettings(redis_url=SecretStr(redis_url), redis_sentinel_master=master)
    app = build(None, settings)
    assert ring(names.CANARY, names.canary(POOL))
    app.close()

    def met() -> bool:
        with database.transaction() as connection:
            latest = canaries.latest(connection)
        return POOL in latest and latest[POOL] > rung_at

    return met


def ready(database: Database) -> Callable[[], bool]:
    """The canary that a worker rings when it is ready has gone through its own broker."""

    def met() -> bool:
        with database.transaction() as connection:
            return POOL in canaries.latest(connection)

    return met


# TLS. The embedded Valkey is built without it, so that something before it ends the encryption.


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    path = tmp_path_factory.mktemp("tls") / "cert.pem"
    subprocess.run(
        [
            *"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes".split(),
            *"-days 2 -subj /CN=queues.test -addext subjectAltName=IP:127.0.0.1".split(),
            *("-keyout", str(path.with_suffix(".key")), "-out", str(path)),
        ],
        check=True,
        capture_output=True,
    )
    return path


TLS_ENDS_HERE = """
import asyncio, ssl, sys
certificate, key, host, port = sys.argv[1:]
context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(certificate, key)

async def copy(reader, writer):
    try:
        while data := await reader.read(2**16):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()

async def serve(reader, writer):
    far, near = await asyncio.open_connection(host, int(port))
    await asyncio.gather(copy(reader, near), copy(far, writer))

async def main():
    server = await asyncio.start_server(serve, '127.0.0.1', 0, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"""


@contextmanager
def encrypted(url: str, certificate: Path) -> Iterator[str]:
    """A process that speaks TLS before the server at `url`; the rediss:// URL without options."""
    parts = urlsplit(url)
    words = [certificate, certificate.with_suffix(".key"), parts.hostname, parts.port]
    process = subprocess.Popen(
        [sys.executable, "-c", TLS_ENDS_HERE, *map(str, words)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    try:
        port = int(process.stdout.readline())
        yield f"rediss://:{parts.password}@127.0.0.1:{port}{parts.path}"
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()


def test_a_worker_takes_doorbells_over_tls(
    database: Database, database_url: str, valkey_url: str, certificate: Path, tmp_path: Path
) -> None:
    with encrypted(valkey_url, certificate) as bare:
        url = f"{bare}?ssl_cert_reqs=required&ssl_ca_certs={certificate}"
        with worker(database_url, tmp_path, url):
            eventually(ready(database), 60)
            eventually(answers(database, url), 30)
        with client(url) as plain:
            assert plain.ping()


def test_a_broker_whose_certificate_is_not_trusted_gets_no_doorbell(
    valkey_url: str, certificate: Path
) -> None:
    with encrypted(valkey_url, certificate) as bare:
        name = bare.replace("127.0.0.1", "localhost") + f"?ssl_ca_certs={certificate}"
        for url in (bare, name):
            app = build(None, RedisSettings(redis_url=SecretStr(url)))
            assert not ring(names.CANARY, names.canary(POOL))
            app.close()
            with client(url) as plain, pytest.raises(redis.ConnectionError, match="certificate"):
                plain.ping()
    with client(valkey_url) as plain:
        assert plain.dbsize() == 0


# Sentinels


@pytest.fixture
def sentinel(valkey_url: str, tmp_path: Path) -> Iterator[str]:
    """Two sentinels that watch the embedded Valkey as `queues`; their URL."""
    parts = urlsplit(valkey_url)
    processes, urls = [], []
    for number in (1, 2):
        folder = tmp_path / f"sentinel{number}"
        folder.mkdir()
        port = launch.free_port(0)
        (folder / "sentinel.conf").write_text(
            f"port {port}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor queues 127.0.0.1 {parts.port} 1\n"
            f"sentinel auth-pass queues {parts.password}\n"
        )
        with (folder / "log").open("wb") as log:
            processes.append(
                subprocess.Popen(
                    [str(find_program()), str(folder / "sentinel.conf"), "--sentinel"],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            )
        urls.append(f"sentinel://:{parts.password}@127.0.0.1:{port}{parts.path}")
    try:
        for url in urls:
            port = urlsplit(url).port or 0
            deadline = time.monotonic() + 15
            while True:
                with redis.Redis(port=port, socket_timeout=2) as asked:
                    try:
                        if asked.sentinel_get_master_addr_by_name("queues"):
                            break
                    except redis.RedisError:
                        assert time.monotonic() < deadline, "no sentinel answered"
        yield ";".join(urls)
    finally:
        for process in processes:
            process.terminate()
            process.wait(10)


def test_a_worker_finds_its_broker_through_sentinels(
    database: Database, database_url: str, sentinel: str, tmp_path: Path
) -> None:
    with worker(database_url, tmp_path, sentinel, **{MASTER: "queues"}):
        eventually(ready(database), 60)
        eventually(answers(database, sentinel, "queues"), 30)
    with client(sentinel, master="queues") as plain:
        assert plain.ping()


def test_one_sentinel_that_is_gone_is_not_missed(sentinel: str) -> None:
    gone = f"sentinel://:x@127.0.0.1:{launch.free_port(0)}/0"
    url = f"{sentinel.split(';')[0]};{gone}"
    with client(url, master="queues") as plain:
        assert plain.ping()
    settings = RedisSettings(redis_url=SecretStr(url), redis_sentinel_master="queues")
    app = build(None, settings)
    assert ring(names.CANARY, names.canary(POOL))
    app.close()
