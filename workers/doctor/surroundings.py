"""What this machine has: settings, variables, extras, the app's options, journals and their disk."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from pydantic import SecretStr, ValidationError
from pydantic_settings import BaseSettings
from sqlalchemy.exc import SQLAlchemyError

from models.session import Database
from tasks.errors import DripfleetError, Misconfigured
from tasks.send.owner import Owner, boot_id
from tasks.send.seen import OlderThanSent, Seen, identity
from tasks.send.settings import SendSettings
from workers.doctor.finding import Finding, error, fine, warning
from workers.pools import BY_NAME
from workers.settings import FleetSettings, RedisSettings, named, panel, variable

SETTINGS = (
    "models.session:DatabaseSettings",
    "tasks.audience.settings:AudienceSettings",
    "tasks.moves.settings:DeliverySettings",
    "tasks.moves.settings:IdentitySettings",
    "tasks.churn.settings:ChurnSettings",
    "tasks.personalize.settings:ModelSettings",
    "tasks.quantum.settings:QuantumSettings",
    "tasks.send.settings:SendSettings",
    "tasks.track.settings:InboundSettings",
    "tasks.upkeep.old_words:OldWordsSettings",
    "tasks.upkeep.verify:VerifySettings",
    "tasks.webhooks.settings:WebhookSettings",
    "tasks.wording:WordingSettings",
    "workers.autoscale:AutoscaleSettings",
    "workers.edge.settings:EdgeSettings",
    "workers.edge.provider_settings:ProviderSettings",
    "workers.metrics.export:MetricsSettings",
    "workers.settings:FleetSettings",
    "workers.settings:RedisSettings",
    "workers.tracing:TraceSettings",
)
"""Every settings class there is; a test holds this list to the source."""
OTHER_VARIABLES = (
    "DRIPFLEET_DEBUG", "DRIPFLEET_POOL", "DRIPFLEET_PARENT_FD", "DRIPFLEET_TEMPLATES",
)  # fmt: skip
"""Those that are read without being fields of a settings class."""
FREE_PREFIXES = ("DRIPFLEET_SECRET_", "DRIPFLEET_SMTP_URL_", "DRIPFLEET_TEST_")

LEAST_FREE = 100 * 1024**2
LITTLE_FREE = 1024**3
_LINE = re.compile(r"d \d+ \d+|r \d+ \d+ [2-5]\d\d .*", re.ASCII)


def app_options(redis_url: str) -> Iterator[Finding]:
    """The one option of the broker's client that leaves workers deaf."""
    from workers.celery import build

    try:
        app = build(None, RedisSettings(redis_url=SecretStr(redis_url)))
    except (ValidationError, DripfleetError):  # said by the check of the settings
        return
    options = dict(app.conf.broker_transport_options or {})
    if "retry_on_timeout" in options or "retry_on_timeout" in parse_qs(urlsplit(redis_url).query):
        yield error(
            "app options",
            "retry_on_timeout is set: after a killed connection a worker goes deaf, without a log",
            "take it out of DRIPFLEET_REDIS_URL, or of workers/celery.py",
        )
    else:
        yield fine("app options", "retry_on_timeout is not set")


def settings() -> Iterator[Finding]:
    """Those of every pool, all that is wrong in one line each."""
    paths = dict.fromkeys(path for pool in BY_NAME.values() for path in pool.settings)
    try:
        panel(FleetSettings, *map(named, paths))
    except Misconfigured as fault:
        yield error("settings", str(fault), "set them before starting a worker")
    else:
        yield fine("settings", "complete, and do not contradict each other")


def variables(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Variables with our prefix that nobody reads: mostly a slip of the pen."""
    kinds: list[type[BaseSettings]] = [named(path) for path in SETTINGS]
    known = {variable(kind, field) for kind in kinds for field in kind.model_fields}
    strange = sorted(
        name
        for name in environment
        if name.startswith("DRIPFLEET_")
        and name not in known
        and name not in OTHER_VARIABLES
        and not name.startswith(FREE_PREFIXES)
    )
    if strange:
        hint = "correct the name, or unset it"
        yield warning("variables", f"nobody reads {', '.join(strange)}", hint)


def extras() -> Iterator[Finding]:
    """Pools whose libraries are not installed here."""
    for pool in BY_NAME.values():
        if pool.lacks_extra():
            yield warning(
                f"pool {pool.name}",
                f"the extra {pool.extra} is not installed; it answers its canary and no more",
                f"pip install 'dripfleet[{pool.extra}]', or do not run this pool here",
            )


def journals(database_url: str, folder: Path | None = None) -> Iterator[Finding]:
    """The folder of the send workers' journals: its disk, and what lies there of others."""
    if folder is None:
        given = os.environ.get("DRIPFLEET_JOURNAL_DIR", "").strip()
        folder = Path(given or SendSettings.model_fields["journal_dir"].default)
    yield from _disk(folder)
    yield from _older(folder, database_url)
    here = _identity(database_url)
    strange = False
    for path in sorted(folder.glob("*.journal")):
        finding = _journal(path, here)
        if finding is not None:
            strange = True
            yield finding
    if not strange:
        yield fine("journals", "none is corrupt, or of another database")


def _disk(folder: Path) -> Iterator[Finding]:
    stands = folder.absolute()
    while not stands.exists() and stands != stands.parent:
        stands = stands.parent
    if not stands.is_dir() or not os.access(stands, os.W_OK):
        yield error(
            "journal disk",
            f"{folder} cannot be written, and no mail is handed over without a journal",
            "give the fleet's user a folder on a local disk, and name it in DRIPFLEET_JOURNAL_DIR",
        )
        return
    free = shutil.disk_usage(stands).free
    says = f"{free / 1024**2:,.0f} MB are free for the journals".replace(",", " ")
    if free < LEAST_FREE:
        hint = "free space there: a send worker that cannot write its journal stops sending"
        yield error("journal disk", says, hint)
    elif free < LITTLE_FREE:
        yield warning("journal disk", says, "free space there, or choose another local disk")
    else:
        yield fine("journal disk", says)


def _older(folder: Path, url: str) -> Iterator[Finding]:
    """Whether our database lacks what was sent from this machine."""
    database = Database(url, name="dripfleet-doctor", size=1)
    try:
        Seen.of(folder, identity(database)).require_known_to(database)
    except OlderThanSent as fault:
        says, _, hint = str(fault).partition(" Nothing is sent. ")
        yield error("database", says, hint[:1].lower() + hint[1:])
    except SQLAlchemyError:
        return  # another check says that it does not answer
    finally:
        database.close()


def _identity(url: str) -> str | None:
    """Which database ours is; None: it does not answer, which another check says."""
    database = Database(url, name="dripfleet-doctor", size=1)
    try:
        return identity(database)
    except SQLAlchemyError:
        return None
    finally:
        database.close()


def _journal(path: Path, here: str | None) -> Finding | None:
    """What is strange about a journal. Read without its lock, which a starting worker would miss."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:  # replayed in this moment
        return None
    except OSError as fault:
        hint = "look at its owner and mode: the fleet's user reads and writes it alone"
        return error("journals", f"{path.name} cannot be read ({fault.strerror})", hint)
    head, *lines = content.decode("utf-8", "replace").split("\n")
    try:
        said = json.loads(head)
        who = Owner.parse(said["owner"])
        database = str(said.get("database", ""))
        whole = said["v"] == 1 and who.instance == path.stem
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        whole = False
    if not whole or not all(map(_LINE.fullmatch, lines[:-1])):
        return error(
            "journals",
            f"{path.name} is corrupt: its silence proves nothing, so its mails may go into doubt",
            "keep a copy, and let a send worker of this machine replay it; then `dripfleet doubt list`",
        )
    if here is not None and database not in ("", here):
        return warning(
            "journals",
            f"{path.name} is of another database, and no send worker here replays it",
            "start a send worker on that database with this folder; remove it if that is gone",
        )
    if who.boot_id != boot_id():
        return warning(
            "journals",
            f"{path.name} is of an earlier boot of this machine, or of another one",
            "start a send worker with this folder: it replays what was heard",
        )
    return None
