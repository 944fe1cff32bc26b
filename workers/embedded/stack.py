"""The servers of a fleet: those that the environment names, else those of DRIPFLEET_HOME.

::

    with Stack(say=print) as stack:
        ...Popen(argv, env=stack.environment())
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tasks.errors import DripfleetError, Misconfigured
from tasks.send.relay import Relay
from workers.embedded.edge_port import edge_port, edge_variables
from workers.embedded.home import Home
from workers.embedded.launch import Service
from workers.embedded.signing import make_key, signing_variables

SECRETS = ("address", "message_id", "token", "flower")
"""Made in the home for a fleet that runs there; each is the variable DRIPFLEET_SECRET_…"""

VARIABLES = {
    "postgres": "DRIPFLEET_DATABASE_URL",
    "valkey": "DRIPFLEET_REDIS_URL",
    "sink": "DRIPFLEET_SMTP_URL",
    "model": "DRIPFLEET_MODEL_URL",
}
SMTP_PREFIX = "DRIPFLEET_SMTP_URL"
MEND_EVERY = (0.5, 10.0)  # seconds between tries to bring a dead server back: first, and longest


@dataclass
class _Care:
    """How a server that died is doing."""

    next_try: float = 0.0
    pause: float = MEND_EVERY[0]


class Stack:
    """Postgres, Redis, an SMTP relay and a model's server, for as long as the context lasts.

    Args:
        home: DRIPFLEET_HOME, by default from the environment; the caller's to close if given.
        say: told what is started, a sentence each.
        loopback_only: refuse a relay that is not on this machine (the demo mails nobody).
        environ: where URLs and secrets are looked for.

    Attributes:
        embedded: the kinds of server that stand in the home: postgres, valkey, sink, model.

    Raises:
        Misconfigured: a relay that is not allowed, or a server that cannot be started.
    """

    def __init__(
        self,
        home: Home | None = None,
        *,
        say: Callable[[str], None] = lambda text: None,
        loopback_only: bool = False,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._environ = {k: v for k, v in environ.items() if v.strip() or not _ours(k)}
        if loopback_only:
            _refuse_distant_relays(self._environ)
        root = self._environ.get("DRIPFLEET_HOME")
        self._root = Path(root) if root else None
        self._given_home = home
        self._say = say
        self._exits = ExitStack()
        self._urls = {kind: self._environ.get(name, "") for kind, name in VARIABLES.items()}
        self.embedded: tuple[str, ...] = tuple(kind for kind, url in self._urls.items() if not url)
        self._services: dict[str, Service] = {}
        self._edge: dict[str, str] = {}
        self._care = {kind: _Care() for kind in self.embedded}

    def __enter__(self) -> Self:
        with ExitStack() as exits:
            self.home = self._given_home or exits.enter_context(Home(self._root))
            for kind in self.embedded:
                if self.home.running(kind) is None:
                    self._say(f"starting {kind} in {self.home.shown()}")
                self._urls[kind] = self._start(kind)
            self._exits = exits.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._exits.close()

    @property
    def database_url(self) -> str:
        """Libpq URL of Postgres."""
        return self._urls["postgres"]

    @property
    def redis_url(self) -> str:
        """URL of Redis or Valkey."""
        return self._urls["valkey"]

    @property
    def smtp_url(self) -> str:
        """URL of the default relay; the sink's, if none was given."""
        return self._urls["sink"]

    def serve_edge(self) -> None:
        """Let processes of this fleet know where its edge listens; mails to the sink name it, signed."""
        port = self._environ.get("DRIPFLEET_EDGE_PORT") or str(edge_port(self.home.run))
        sink = "sink" in self.embedded
        self._edge = edge_variables(port, sink=sink, environ=self._environ)
        if sink:
            make_key(self.home.root)
            self._edge |= signing_variables(self.home.root, self._environ)

    def environment(self) -> dict[str, str]:
        """The environment of a process of this fleet, secrets included: nothing goes by argv."""
        own = {name: self._urls[kind] for kind, name in VARIABLES.items()}
        own["DRIPFLEET_HOME"] = str(self.home.root)
        own["DRIPFLEET_JOURNAL_DIR"] = str(self.home.journals)
        if "sink" in self.embedded:  # where mails reach nobody, nothing is asked of them
            own["DRIPFLEET_COMPLIANCE"] = "warn"
        for name in SECRETS:
            own[f"DRIPFLEET_SECRET_{name.upper()}"] = self.home.secret(name)
        # What the operator set stands, but an empty variable is none.
        return {**own, **self._edge, **self._environ}

    def adopt(self) -> None:
        """Take that environment for this process too, for whatever reads settings in it."""
        os.environ.update(self.environment())

    def mend(self) -> list[str]:
        """Start again what died of the embedded servers; returns their kinds. Call it often."""
        mended = []
        for kind in self.embedded:
            care = self._care[kind]
            if time.monotonic() < care.next_try or self._services[kind].alive():
                continue
            self._say(f"{kind} is gone; starting it again")
            try:
                self._urls[kind] = self._start(kind)
                mended.append(kind)
                care.pause = MEND_EVERY[0]
            except (DripfleetError, OSError) as fault:
                self._say(f"{kind} did not come back: {fault}")
                care.pause = min(care.pause * 2, MEND_EVERY[1])
            care.next_try = time.monotonic() + care.pause
        return mended

    def _start(self, kind: str) -> str:
        starts: dict[str, Callable[[], Service]] = {
            "postgres": self.home.postgres,
            "valkey": self.home.valkey,
            "sink": self.home.sink,
            "model": self.home.model,
        }
        self._services[kind] = starts[kind]()
        return self._services[kind].url


def _ours(name: str) -> bool:
    return name.startswith("DRIPFLEET_")


def _refuse_distant_relays(environ: Mapping[str, str]) -> None:
    for name, url in environ.items():
        if not name.startswith(SMTP_PREFIX) or Relay.parse(url).is_loopback:
            continue
        raise Misconfigured(
            f"{name} is {Relay.parse(url)}, which is not this machine: this command mails to nobody"
            " but a server on loopback; unset the variable to use the mail sink that ships."
        )
