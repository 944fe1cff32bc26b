"""What is written is true: the README's commands run, the examples parse, the settings are listed."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer.main
from pydantic_settings import BaseSettings
from typer.core import TyperCommand, TyperGroup

from models.session import DatabaseSettings
from tasks.audience.settings import AudienceSettings
from tasks.churn.settings import ChurnSettings
from tasks.moves.settings import DeliverySettings, IdentitySettings
from tasks.personalize.settings import ModelSettings
from tasks.quantum.settings import QuantumSettings
from tasks.send.settings import SendSettings
from tasks.track.settings import InboundSettings
from tasks.upkeep.old_words import OldWordsSettings
from tasks.upkeep.verify import VerifySettings
from tasks.webhooks.settings import WebhookSettings
from tasks.wording import WordingSettings
from workers.autoscale import AutoscaleSettings
from workers.cli import app
from workers.edge.provider_settings import ProviderSettings
from workers.edge.settings import EdgeSettings
from workers.metrics.export import MetricsSettings
from workers.settings import FleetSettings, RedisSettings, variable
from workers.tracing import TraceSettings

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SETTINGS: tuple[type[BaseSettings], ...] = (
    DatabaseSettings, RedisSettings, FleetSettings, DeliverySettings, IdentitySettings,
    SendSettings, AudienceSettings, VerifySettings, MetricsSettings, ChurnSettings,
    TraceSettings, AutoscaleSettings, QuantumSettings, ModelSettings, WordingSettings,
    EdgeSettings, OldWordsSettings, InboundSettings, WebhookSettings,
    ProviderSettings,
)  # fmt: skip
CUSTOMERS = "months,calls,plan,left\n" + "".join(
    f"{n % 40},{n * 7 % 9},{'ab'[n % 2]},{'yes' if n * 7 % 9 + n % 40 / 10 > 7 else 'no'}\n"
    for n in range(400)
)
PEOPLE = "email,first_name,topic:product-news,orders:int\nzoe@example.com,Zoë,yes,3\n"
ORDERS = "email,name,occurred_at,source_id\nzoe@example.com,purchase,2026-01-02,1\n"


def console() -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """An empty folder with the README's files, and servers that run while its commands do."""
    from workers.embedded.home import Home

    folder = tmp_path_factory.mktemp("readme")
    (folder / "people.csv").write_text(PEOPLE)
    (folder / "orders.csv").write_text(ORDERS)
    (folder / "customers.csv").write_text(CUSTOMERS)
    (folder / "schedules").symlink_to(ROOT / "schedules")
    for name, content in re.findall(r"```yaml\n# (\S+\.yaml)\n(.*?)```", README, re.DOTALL):
        (folder / name).write_text(content)
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("DRIPFLEET_")}
    environment = {
        **inherited,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "DRIPFLEET_HOME": str(folder / "var"),
    }
    with Home(folder / "var") as home:
        home.postgres()
        home.valkey()
        home.sink()
        yield folder, environment


@pytest.mark.timeout(600)
def test_every_command_of_the_readme_runs(place: tuple[Path, dict[str, str]]) -> None:
    folder, environment = place
    commands = [line for line in console() if not line.startswith("make ")]
    assert len(commands) >= 15
    for line in commands:
        done = subprocess.run(
            ["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip
        # No fleet runs here: doctor may say so, and that is an answer.
        allowed = (0, 3) if line == "dripfleet doctor" else (0,)
        assert done.returncode in allowed, f"$ {line}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    assert [line for line in console() if line.startswith("make ")] == ["make demo", "make test"]
    for target in ("demo", "test", "check", "bench", "chaos", "soak", "mutate", "clean"):
        done = subprocess.run(
            ["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


def commands(group: TyperGroup, path: tuple[str, ...] = ()) -> Iterator[tuple[str, TyperCommand]]:
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command, (*path, name))
        elif isinstance(command, TyperCommand):
            yield " ".join((*path, name)), command


ALL = dict(commands(typer.main.get_group(app)))


@pytest.mark.parametrize("path", sorted(ALL))
def test_every_command_has_help_that_ends_in_examples_which_parse(path: str) -> None:
    command = ALL[path]
    assert command.help, f"dripfleet {path} has no help"
    examples = re.findall(r"dripfleet ([^·|\n]+)", command.epilog or "")
    assert examples, f"dripfleet {path} has no example"
    options = {option for parameter in command.params for option in parameter.opts}
    options |= {o for parameter in command.params for o in parameter.secondary_opts}
    for example in examples:
        words = shlex.split(example)
        assert words[: len(path.split())] == path.split(), (
            f"an example of another command: {example}"
        )
        used = {word.split("=")[0] for word in words if word.startswith("--")}
        assert used <= options, f"{example}: {used - options} is no option of it"


def test_every_setting_stands_in_env_example_with_its_default() -> None:
    written = dict(
        re.findall(r"^#?(DRIPFLEET_\w+)=(.*)$", (ROOT / "deploy/env.example").read_text(), re.M)
    )
    fields = {
        variable(kind, name): field
        for kind in SETTINGS
        for name, field in kind.model_fields.items()
    }
    assert set(written) == {*fields, "DRIPFLEET_SECRET_FLOWER"}
    for name, field in fields.items():
        if not field.is_required():
            default = "" if field.default is None else str(field.default)
            assert written[name] == default, f"{name}: its default is {default!r}"
