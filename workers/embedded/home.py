"""DRIPFLEET_HOME: the folder that holds what the embedded case needs, and says what runs there.

::

    var/                     0700
    ├── postgres/ valkey/    data, passwords beside them
    ├── mail/                the sink's spool and ledger
    ├── journals/  logs/  secrets/
    └── run/                 services.json (0600), locks

Servers are shared: each command that uses one holds a shared lock on it, and the last one to let go
stops it. The kernel drops the lock of a command killed with -9, so nothing stays counted.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from tasks.errors import Misconfigured
from workers.embedded import announced, launch, model_process, postgres, sink, valkey

S = TypeVar("S", bound=launch.Service)
ROOMS = ("postgres", "valkey", "mail", "journals", "logs", "run", "secrets")


class Home:
    """The embedded case's folder; leaving it as a context lets go of every server it used.

    Args:
        root: the folder, else DRIPFLEET_HOME, else ``./var``; made (0700) if it is not there.

    Raises:
        Misconfigured: the folder is somebody else's, or holds other things and is open to others.
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = (root or Path(os.environ.get("DRIPFLEET_HOME") or "var")).absolute()
        _claim(self.root)
        for name in ROOMS:
            (self.root / name).mkdir(exist_ok=True, mode=0o700)
        self.mail = self.root / "mail"
        self.journals = self.root / "journals"
        self.logs = self.root / "logs"
        self.run = self.root / "run"
        self._used: dict[str, tuple[launch.Service, int]] = {}

    def shown(self, path: Path | None = None) -> str:
        """The folder, or `path` in it, as one would type it here."""
        path = path or self.root
        here = Path.cwd()
        return str(path.relative_to(here) if path.is_relative_to(here) else path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.release_all()

    def secret(self, name: str) -> str:
        """The secret `name`: DRIPFLEET_SECRET_<NAME> if set, else made once and kept (0600).

        Raises:
            ValueError: a name that is not of small letters, digits, ``-`` and ``_``.
        """
        if not re.fullmatch(r"[a-z][a-z0-9_-]*", name):
            raise ValueError(f"A secret's name is small letters, digits, - and _, not {name!r}.")
        if given := os.environ.get(f"DRIPFLEET_SECRET_{name.upper().replace('-', '_')}"):
            return given
        with self.lock("secrets"):
            return launch.kept_password(self.root / "secrets" / name)

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold a lock of this home, across processes, for the length of the block."""
        with launch.locked(self.run / f"{name}.lock", seconds=120.0):
            yield

    def running(self, kind: str) -> str | None:
        """The URL of the running ``postgres``, ``valkey``, ``sink`` or ``model``, or None.

        It is asked, not believed: the recorded process lives, is the same one, and it is that
        process which answers at the URL.
        """
        record = self._records().get(kind)
        if record is None:
            return None
        url, pid = str(record["url"]), int(record["pid"])
        if not launch.same_process(pid, float(record["started"])):
            return None
        answers = {
            "postgres": postgres.answering,
            "valkey": valkey.answering,
            "sink": announced.answering,
            "model": announced.answering,
        }[kind]
        return url if answers(url, pid) else None

    def postgres(self) -> postgres.EmbeddedPostgres:
        """The home's Postgres, started if none runs."""
        return self._use(
            "postgres",
            lambda port: postgres.EmbeddedPostgres.start(
                self.root / "postgres" / "data", log_file=self.logs / "postgres.log", port=port
            ),
        )

    def valkey(self) -> valkey.EmbeddedValkey:
        """The home's Valkey, started if none runs."""
        return self._use(
            "valkey",
            lambda port: valkey.EmbeddedValkey.start(
                self.root / "valkey" / "data", log_file=self.logs / "valkey.log", port=port
            ),
        )

    def sink(
        self, *, faults: Sequence[str] = (), seed: int = 0, latency: float = 0.0
    ) -> sink.EmbeddedSink:
        """The home's mail sink on ``mail/``, started if none runs; arguments as in `start_sink`."""
        return self._use(
            "sink",
            lambda port: sink.start_sink(
                self.mail,
                port=port,
                faults=faults,
                seed=seed,
                latency=latency,
                log_file=self.logs / "sink.log",
            ),
        )

    def model(self) -> model_process.EmbeddedModel:
        """The home's model server, which is no language model, started if none runs."""
        return self._use(
            "model",
            lambda port: model_process.start_model(
                self.run, port=port, log_file=self.logs / "model.log"
            ),
        )

    def release(self, kind: str, *, immediate: bool = False) -> bool:
        """Let go of a server; stop it if no other command uses it. Whether it was stopped."""
        if kind not in self._used:
            return False
        service, use = self._used.pop(kind)
        with self.lock("services"):
            last = launch.try_lock(use, fcntl.LOCK_EX)
            os.close(use)
            if last:
                launch.end(service, immediate=immediate)
                self._record(kind, service.url, 0, 0.0)
            else:
                launch.leave(service)
        return last

    def release_all(self) -> None:
        """Let go of every server, the last one taken first."""
        for kind in reversed(list(self._used)):
            self.release(kind)

    def _use(self, kind: str, start: Callable[[int], S]) -> S:
        with self.lock("services"):
            held = self._used.get(kind)
            if held is None:
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
                use = os.open(self.run / f"{kind}.use", flags, 0o600)
                fcntl.flock(use, fcntl.LOCK_SH)
            else:
                use = held[1]
            try:
                # The last port again: a server that came back is where its clients look for it.
                record = self._records().get(kind, {})
                service = start(urlsplit(str(record.get("url", ""))).port or 0)
            except BaseException:
                if held is None:
                    os.close(use)
                raise
            if held is not None and held[0].alive() and held[0].pid == service.pid:
                service.owned, service.child = held[0].owned, held[0].child
            self._used[kind] = (service, use)
            self._record(kind, service.url, service.pid, service.started)
            return service

    def _records(self) -> dict[str, dict[str, Any]]:
        try:
            records: dict[str, dict[str, Any]] = json.loads(
                (self.run / "services.json").read_text(encoding="utf-8")
            )
        except FileNotFoundError:
            return {}
        return records

    def _record(self, kind: str, url: str, pid: int, started: float) -> None:
        records = self._records() | {kind: {"url": url, "pid": pid, "started": started}}
        launch.write_private(self.run / "services.json", json.dumps(records, indent=1) + "\n")


def _claim(root: Path) -> None:
    """Make the folder, or see that it is ours, and keep it from others' eyes."""
    try:
        # Those above it too, where they are not there: one of them may be made a home later.
        for folder in reversed([each for each in root.absolute().parents if not each.exists()]):
            folder.mkdir(exist_ok=True, mode=0o700)
        root.mkdir(exist_ok=True, mode=0o700)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise Misconfigured(
            f"DRIPFLEET_HOME {root} cannot be made ({error.strerror}); name another folder."
        ) from error
    status = root.stat()
    if status.st_uid != os.geteuid():
        raise Misconfigured(
            f"DRIPFLEET_HOME {root} belongs to uid {status.st_uid}; run as that user, "
            "or name another folder."
        )
    if status.st_mode & 0o077:
        # Somebody's folder named by mistake (/tmp, a home) must not be closed to its other users.
        if any(root.iterdir()) and not (root / "run").is_dir():
            raise Misconfigured(
                f"DRIPFLEET_HOME {root} holds other things and is open to others; "
                "name a new or empty folder."
            )
        root.chmod(0o700)
