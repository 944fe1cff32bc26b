"""What is deployed fits what is there: commands, pools, settings, grace periods, journals, secrets."""

from __future__ import annotations

import fnmatch
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import typer.main
from pydantic_settings import BaseSettings
from ruamel.yaml import YAML
from typer import BadParameter
from typer.core import TyperGroup
from typer.exceptions import TyperException

from workers.cli import app
from workers.pools import BY_NAME
from workers.settings import FleetSettings
from workers.supervisor import PATIENCE

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "dripfleet"
DRAIN = FleetSettings.model_fields["drain_wait"].default
# Of the images and of Compose; `NAME` is any relay's.
PLATFORM = {
    "POSTGRES_USER", "POSTGRES_DB", "POSTGRES_PASSWORD", "POSTGRES_INITDB_ARGS",
    "VALKEY_PASSWORD", "REDISCLI_AUTH", "FLEET_IMAGE", "FLEET_EXTRAS",
    "DRIPFLEET_SMTP_URL_NAME", "DRIPFLEET_POOL",
}  # fmt: skip


def yaml(text: str) -> list[Any]:
    return [document for document in YAML(typ="safe").load_all(text) if document is not None]


@cache
def compose() -> dict[str, Any]:
    (document,) = yaml((DEPLOY / "compose.yaml").read_text())
    assert isinstance(document, dict)
    return document


def processes() -> dict[str, dict[str, Any]]:
    """Those of its services that run our image."""
    services: dict[str, dict[str, Any]] = compose()["services"]
    return {k: v for k, v in services.items() if v["image"].startswith("${FLEET_IMAGE")}


def unit(name: str) -> dict[str, list[str]]:
    text = (DEPLOY / "systemd" / name).read_text()
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", text, re.M):
        found.setdefault(key, []).append(value)
    return found


SERVICES = sorted(path.name for path in (DEPLOY / "systemd").glob("*.service"))


def parse(command: list[str]) -> None:
    """As the command line would, up to where it would begin.

    Raises:
        TyperException: no such command, option or argument.
    """
    here: Any = typer.main.get_group(app)
    while isinstance(here, TyperGroup) and (command or not here.invoke_without_command):
        name, *command = command
        if name not in here.commands:
            raise BadParameter(f"no command {name!r}")
        here = here.commands[name]
    arguments = here.make_context(here.name, command).params
    if "pool" in arguments and arguments["pool"] not in BY_NAME:
        raise BadParameter(f"no pool {arguments['pool']!r}")


def commands_of_units() -> Iterator[list[str]]:
    for name in SERVICES:
        (line,) = unit(name)["ExecStart"]
        program, *words = shlex.split(line)
        assert program == "/opt/dripfleet/bin/dripfleet"
        for pool in BY_NAME if "%i" in words else [""]:
            yield [word.replace("%i", pool) for word in words]


def test_every_command_is_one_of_ours_with_options_that_it_has() -> None:
    shown = re.findall(
        r"(?:-- |^  )dripfleet (.+)$", (CHART / "templates/NOTES.txt").read_text(), re.M
    )
    found = [*commands_of_units(), *(p["command"] for p in processes().values())]
    found += [shlex.split(line) for line in shown]
    assert len(found) > 20
    for command in found:
        parse(command)
    for wrong in (["worker", "sned"], ["beats"], ["migrate", "--lock-time", "5"]):
        with pytest.raises(TyperException):
            parse(wrong)


def test_every_variable_is_read_by_somebody() -> None:
    read = PLATFORM | set(
        re.findall(r"^#?(DRIPFLEET_\w+)=", (DEPLOY / "env.example").read_text(), re.M)
    )
    for kind in settings_classes():
        read |= {f"DRIPFLEET_{field.upper()}" for field in kind.model_fields}
    paths = [p for p in DEPLOY.rglob("*") if p.is_file() and "cache" not in str(p)]
    assert len(paths) > 20
    for path in paths:
        # Not the beginnings of names, in patterns: DRIPFLEET_SECRET_.*
        used = set(re.findall(r"\bDRIPFLEET_[A-Z0-9_]*[A-Z0-9]\b(?![_(])", path.read_text()))
        assert used <= read, f"{path.name}: nobody reads {used - read}"
    asked = set(re.findall(r"(?<!\$)\$\{(\w+)", (DEPLOY / "compose.yaml").read_text()))
    assert asked <= read and "POSTGRES_PASSWORD" in asked


def settings_classes() -> set[type[BaseSettings]]:
    for room in ("workers", "tasks", "models"):
        for path in (ROOT / room).rglob("*.py"):
            if "(BaseSettings)" in path.read_text():
                import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    return set(BaseSettings.__subclasses__())


def test_the_pools_are_the_same_everywhere() -> None:
    wanted = set(BY_NAME)
    target = unit("dripfleet.target")["Wants"]
    assert {
        m[1] for w in target if (m := re.fullmatch(r"dripfleet-worker@(\w+)\.service", w))
    } == wanted
    commands = [p["command"] for p in processes().values()]
    assert {c[1] for c in commands if c[0] == "worker"} == wanted
    assert all(
        c == ["worker", s] for s, p in processes().items() if (c := p["command"])[0] == "worker"
    )


def test_a_send_worker_is_given_the_time_that_its_drain_may_take() -> None:
    needed = DRAIN + PATIENCE
    assert float(processes()["send"]["stop_grace_period"].removesuffix("s")) >= needed
    assert float(unit("dripfleet-worker@.service")["TimeoutStopSec"][0]) >= needed
    for process in processes().values():
        assert float(process["stop_grace_period"].removesuffix("s")) >= PATIENCE


def test_journals_outlive_their_process() -> None:
    folder = "/var/lib/dripfleet/journals"
    assert processes()["send"]["environment"]["DRIPFLEET_JOURNAL_DIR"] == folder
    assert (
        processes()["send"]["volumes"] == [f"journals:{folder}"]
        and "journals" in compose()["volumes"]
    )
    assert f'VOLUME ["{folder}"]' in dockerfile()[-1]
    for name in SERVICES:
        told = unit(name)
        assert "dripfleet/journals" in told["StateDirectory"][0].split()
        assert f"DRIPFLEET_JOURNAL_DIR={folder}" in " ".join(told["Environment"])
        assert "DynamicUser" not in told and told["User"] == ["dripfleet"]
        assert "RemoveIPC" not in told and "ProcSubset" not in told


def dockerfile() -> list[str]:
    return re.split(r"^FROM .*$", (DEPLOY / "Dockerfile").read_text(), flags=re.M)[1:]


def test_the_image_is_small_hashed_and_nobodys() -> None:
    build, final = dockerfile()
    installs = re.findall(r"pip install (?:[^\\\n]|\\\n)*", build)
    assert len(installs) == 3
    assert all("--require-hashes" in i or "--no-index" in i for i in installs)
    assert sum("--compile-bytecode" in i for i in installs) == 2
    assert not re.search(r"apt-get|pip install|gcc|build-essential", final)
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", final, re.M)
    for line in ("STOPSIGNAL SIGTERM", "WORKDIR /var/lib/dripfleet", 'ENTRYPOINT ["dripfleet"]'):
        assert line in final.splitlines()
    assert 'CMD ["python", "/opt/dripfleet/alive.py"]' in final
    lock = (DEPLOY / "build.lock").read_text()
    assert all(line.endswith("\\") for line in lock.splitlines() if line and line[0].isalpha())


def test_the_build_sees_what_the_wheel_is_made_of_and_no_more() -> None:
    lines = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    sent = {line[1:] for line in lines if line.startswith("!")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["setuptools"]["packages"]["find"]["include"]
    needed = {p for p in packages if "." not in p} | {
        "pyproject.toml",
        project["project"]["readme"],
    }
    needed |= {*project["project"]["license-files"], "requirements.lock"}
    assert sent == needed | {"deploy/alive.py", "deploy/build.lock"}
    assert "**" in lines and not any(fnmatch.fnmatch(".env", s) for s in sent)
    assert all((ROOT / path).exists() for path in sent)


def test_processes_in_compose_write_nowhere_but_where_they_should() -> None:
    for name, process in processes().items():
        assert process["read_only"] and process["cap_drop"] == ["ALL"], name
        assert process["working_dir"] == "/var/lib/dripfleet" and process["env_file"] == [".env"]
        assert any(place.startswith("/var/lib/dripfleet:") for place in process["tmpfs"])
    published = [p for s in compose()["services"].values() for p in s.get("ports", [])]
    assert published and all(port.startswith("127.0.0.1:") for port in published)
    valkey = compose()["services"]["valkey"]
    assert "appendfsync everysec" in valkey["command"][-1]
    assert "maxmemory-policy noeviction" in valkey["command"][-1]


@pytest.mark.parametrize("name", SERVICES)
def test_units_are_hardened_and_come_back(name: str) -> None:
    told = unit(name)
    for key, value in {
        "NoNewPrivileges": "yes", "ProtectSystem": "strict", "MemoryDenyWriteExecute": "yes",
        "CapabilityBoundingSet": "", "WorkingDirectory": "/var/lib/dripfleet",
    }.items():  # fmt: skip
        assert told[key] == [value]
    assert told["Restart"] == ["on-failure" if "migrate" in name else "always"]


def test_systemd_understands_the_units(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None or not Path("/usr/lib/systemd/system").is_dir():
        pytest.skip("systemd-analyze is not installed")
    program = tmp_path / "opt/dripfleet/bin/dripfleet"
    program.parent.mkdir(parents=True)
    shutil.copy("/bin/true", program)
    shutil.copytree("/usr/lib/systemd/system", tmp_path / "usr/lib/systemd/system", symlinks=True)
    place = tmp_path / "etc/systemd/system"
    shutil.copytree(DEPLOY / "systemd", place)
    shutil.copy(place / "dripfleet-worker@.service", place / "dripfleet-worker@send.service")
    units = [*(n.replace("@.", "@send.") for n in SERVICES), "dripfleet.target"]
    done = subprocess.run(
        ["systemd-analyze", "verify", f"--root={tmp_path}", *units],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and not done.stderr.strip(), done.stderr


def test_hadolint_finds_nothing() -> None:
    found = shutil.which("hadolint") or shutil.which(
        "hadolint", path=str(Path(sys.executable).parent)
    )
    if found is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([found, "Dockerfile"], cwd=DEPLOY, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode()


def test_docker_compose_reads_the_file(tmp_path: Path) -> None:
    client = shutil.which("docker")
    if (
        client is None
        or subprocess.run(
            [client, "compose", "version"], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("the Compose plugin of docker is not installed")
    shutil.copy(DEPLOY / "compose.yaml", tmp_path)
    (tmp_path / ".env").write_text("POSTGRES_PASSWORD=a\nVALKEY_PASSWORD=b\n")
    done = subprocess.run(
        [client, "compose", "config", "--quiet"], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
