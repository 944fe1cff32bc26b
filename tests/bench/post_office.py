"""django-post-office in its best configuration, in a virtual environment of its own, beside the fleet.

The same words in its own template language, rendered at delivery, to the same smtp-sink, its rows in a
database of the same Postgres: two processes, batches of a thousand, no log rows. What it runs is
`post_office_site`; its processor time is that of its processes, of Postgres and of the sink.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

import psycopg

from tasks.errors import Permanent, Transient
from tasks.send.render import bundle_from_folder, compile
from tests.bench.cpu_time import OURSELVES, cpu_seconds, used_between
from workers.cli.proof import installed_templates, sample_sender

PLACE = Path("var/bench/django-post-office")
PACKAGES = ("django-post-office", "psycopg[binary]")
SITE = Path(__file__).with_name("post_office_site.py")
DATABASE = "post_office"
INSTALL_SECONDS = 300


def environment(say: Callable[[str], None]) -> Path:
    """The interpreter of its environment, which is made if it is not there.

    Raises:
        Transient: it cannot be made; what `uv` said last.
    """
    python = PLACE / "bin/python"
    uv = str(Path(sys.executable).with_name("uv"))
    if (PLACE / ".installed").exists():
        return python.absolute()
    say(f"making an environment for django-post-office in {PLACE}")
    for command in (
        [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(PLACE)],
        [uv, "pip", "install", "--quiet", "--python", str(python), *PACKAGES],
    ):
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=INSTALL_SECONDS
            )
            said = done.stderr.strip().splitlines()[-1:] if done.returncode else None
        except (OSError, subprocess.TimeoutExpired) as error:
            said = [type(error).__name__]
        if said is not None:
            raise Transient(
                "django-post-office cannot be installed, so the fleet stands without it"
                f" ({' '.join(said)}); see that a package index answers, and run it again"
            )
    (PLACE / ".installed").touch()
    return python.absolute()


class PostOffice:
    """Its process, and its database; a context.

    Args:
        python: of its environment.
        database_url: of the Postgres server.
        port: of the SMTP server, on loopback.

    Raises:
        Transient: it does not come up.
    """

    name = "django-post-office"

    def __init__(self, python: Path, database_url: str, port: int) -> None:
        self._python = python
        self._server = database_url
        self._port = port

    def __enter__(self) -> Self:
        with psycopg.connect(self._server, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {DATABASE}")
            connection.execute(f"CREATE DATABASE {DATABASE}")
        parts = urlsplit(self._server)
        told = {
            "database": urlunsplit(parts._replace(path=f"/{DATABASE}")),
            "port": self._port,
            **_words(),
        }
        self._process = subprocess.Popen(
            [str(self._python), "-P", str(SITE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._ask(told)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def send(self, mails: int, roots: Mapping[str, int]) -> tuple[float, float]:
        """Queue mails, then send them all: µs of processor a mail, and mails a second.

        Args:
            mails: how many.
            roots: what else is counted, name → process id: Postgres and the sink.

        Raises:
            Permanent: not all of them were sent.
        """
        self._ask({"queue": mails})
        trees = {**roots, "django": self._process.pid}
        before, began = cpu_seconds(trees), time.monotonic()
        sent = self._ask({"send": True})["sent"]
        took = time.monotonic() - began
        used = used_between(before, cpu_seconds(trees))
        del used[OURSELVES]
        if sent != mails:
            raise Permanent(f"django-post-office sent {sent} mails of {mails}: no figure")
        return sum(used.values()) / mails * 1e6, mails / took

    def _ask(self, told: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(told) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise Transient("django-post-office ended; its words stand above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def _words() -> dict[str, str]:
    """The fleet's mail with the names of Django's variables in the places of its own."""
    sender = sample_sender()
    names = {
        "Qfirstname": "{{ first_name }}", "42424242": "{{ purchases }}", "31,415,926.50": "{{ spent }}",
        "Qlast": "{{ last_purchase }}", "Qleave": "{{ leave }}",
    }  # fmt: skip
    made = compile(bundle_from_folder(installed_templates(), "thank-you/first")).render(
        {
            "subscriber": {
                "first_name": "Qfirstname",
                "locale": "en-GB",
                "attributes": {
                    "purchases": 42424242,
                    "spent": 31415926.5,
                    "last_purchase": "Qlast",
                },
            },
            "sender": {"name": sender.name, "postal_address": sender.postal_address},
            "unsubscribe": {"mailto": "Qleave"},
        }
    )
    told = {"subject": made.subject, "text": made.text, "html": made.html or ""}
    for key, source in told.items():
        for mark, name in names.items():
            source = source.replace(mark, name)
        told[key] = source
    return told
