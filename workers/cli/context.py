"""The servers and secrets a command works with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workers.cli.render import say

if TYPE_CHECKING:
    from models.session import Database
    from workers.embedded.home import Home

SECRETS = ("address", "message_id", "token")
"""Secrets made in DRIPFLEET_HOME for the embedded case, each the variable DRIPFLEET_SECRET_…"""


@dataclass(frozen=True)
class Services:
    """What a command was given: `database` and `redis_url` are None where it asked for neither."""

    database_or_none: Database | None
    redis_url: str | None

    @property
    def database(self) -> Database:
        """The database, for commands that asked for it."""
        assert self.database_or_none is not None, "connected(postgres=True) gives a database"
        return self.database_or_none


@contextmanager
def connected(postgres: bool = True, redis: bool = False) -> Iterator[Services]:
    """Servers for the length of a command.

    DRIPFLEET_DATABASE_URL and DRIPFLEET_REDIS_URL come first; else the servers of DRIPFLEET_HOME,
    which are started for this command's time if they do not run. The environment of this process
    then holds their URLs, and the home's secrets, for whatever reads settings.

    Raises:
        Misconfigured: a server cannot be started, or the home is not ours.
    """
    with ExitStack() as stack:
        wanted = {
            kind: variable
            for kind, variable, asked in (
                ("postgres", "DRIPFLEET_DATABASE_URL", postgres),
                ("valkey", "DRIPFLEET_REDIS_URL", redis),
            )
            if asked
        }
        missing = {k: v for k, v in wanted.items() if not os.environ.get(v, "").strip()}
        if missing:
            from workers.embedded.edge_port import edge_variables, kept_port
            from workers.embedded.home import Home
            from workers.embedded.signing import signing_variables

            home = stack.enter_context(Home())
            for kind, variable in missing.items():
                os.environ[variable] = _url(home, kind)
                stack.callback(os.environ.pop, variable, None)
            if "postgres" in missing:
                for name in SECRETS:
                    variable = f"DRIPFLEET_SECRET_{name.upper()}"
                    if not os.environ.get(variable):
                        os.environ[variable] = home.secret(name)
                        stack.callback(os.environ.pop, variable, None)
                # So that a mail made again for a look is the one that went.
                if port := kept_port(home.run):
                    sink = not os.environ.get("DRIPFLEET_SMTP_URL", "").strip()
                    told = edge_variables(port, sink=sink)
                    told |= signing_variables(home.root) if sink else {}
                    for variable, value in told.items():
                        os.environ[variable] = value
                        stack.callback(os.environ.pop, variable, None)
        database = None
        if postgres:
            from models.session import Database

            database = Database(os.environ["DRIPFLEET_DATABASE_URL"], name="dripfleet-cli")
            stack.callback(database.close)
        yield Services(database, os.environ["DRIPFLEET_REDIS_URL"] if redis else None)


def _url(home: Home, kind: str) -> str:
    if home.running(kind) is None:
        say(f"starting {kind} in {home.shown()} for this command ({kind} is not running there)")
    return home.postgres().url if kind == "postgres" else home.valkey().url
