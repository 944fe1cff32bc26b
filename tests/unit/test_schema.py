"""The JSON Schema for editors: derived from the reader, so that it can say nothing else."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML
from typer.testing import CliRunner

from schedules.findings import DefinitionError
from schedules.loader import loads
from schedules.schema import SAMPLE, sequence_schema
from workers.cli import sequence as commands

SEQUENCES = Path(__file__).parents[2] / "schedules" / "sequences"
SCHEMA = sequence_schema()
VALIDATOR = Draft202012Validator(SCHEMA)


def yaml(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


def objects(schema: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every schema of a mapping whose keys are the reader's, and where it stands."""
    if not isinstance(schema, dict):
        return
    if schema.get("additionalProperties") is False:
        yield place, schema
    for name, inner in schema.get("properties", {}).items():
        yield from objects(inner, (*place, name))
    if "items" in schema:
        yield from objects(schema["items"], (*place, "*"))
    for inner in schema.get("anyOf", ()):
        yield from objects(inner, place)


def mappings(value: Any, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict):
        yield place, value
        for name, inner in value.items():
            yield from mappings(inner, (*place, name))
    elif isinstance(value, list):
        for inner in value:
            yield from mappings(inner, (*place, "*"))


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)


def test_the_sample_that_it_is_made_of_is_a_sound_sequence() -> None:
    assert loads(SAMPLE, "sample.yaml").key == "sample"


@pytest.mark.parametrize("path", sorted(SEQUENCES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_sequence_is_valid_by_it(path: Path) -> None:
    assert [error.message for error in VALIDATOR.iter_errors(yaml(path.read_text()))] == []


def test_the_sample_is_valid_by_it_and_shows_every_mapping() -> None:
    sample = yaml(SAMPLE)
    assert list(VALIDATOR.iter_errors(sample)) == []
    shown = {place for place, _ in mappings(sample)}
    missing = {place for place, _ in objects(SCHEMA)} - shown
    assert {place for place in missing if "*" not in place[-1:]} - {_set_value()} == set()


@pytest.mark.parametrize(
    "entry",
    [
        {"trigger": {"event": "purchase"}},
        {"trigger": {"segment": "lapsed", "edge": "join"}},
        {"trigger": {"schedule": "0 9 * * MON", "audience": "all"}},
        {"trigger": {"manual": True}},
        {"manual": True, "admission": {"rate": "5/h"}},
    ],
)
def test_each_way_to_come_in_is_valid_by_it(entry: dict[str, Any]) -> None:
    assert [error.message for error in VALIDATOR.iter_errors(yaml(SAMPLE) | {"entry": entry})] == []


def _set_value() -> tuple[str, ...]:
    return ("steps", "*", "update", "set")


def test_the_keys_that_the_reader_knows_are_those_of_the_schema() -> None:
    """A key that nobody knows, put into each mapping of the sample: the reader names those it knows."""
    known = {place: set(schema["properties"]) for place, schema in objects(SCHEMA)}
    sample = yaml(SAMPLE)
    told: dict[tuple[str, ...], set[str]] = {}
    for place, mapping in mappings(sample):
        if place not in known:
            continue
        mapping["zzz"] = 1
        with pytest.raises(DefinitionError) as refused:
            loads(json.dumps(sample), "sample.yaml")
        del mapping["zzz"]
        named = re.search(r"unknown key 'zzz' in .*: expected one of (.*?);", str(refused.value))
        assert named, f"{place}: {refused.value}"
        told.setdefault(place, set()).update(named[1].split(", "))
    # Of a trigger the reader names the keys of its own way, and the schema those of all ways.
    way = told.pop(("entry", "trigger"))
    assert {"event", "where"} < way < known[("entry", "trigger")]
    assert told == {place: keys for place, keys in known.items() if place in told}
    assert len(told) >= 10


@pytest.mark.parametrize(
    "wrong",
    [
        SAMPLE.replace("title:", "titel:"),
        SAMPLE.replace("class: marketing", "class: markting"),
        SAMPLE.replace("priority: 50", "priority: 101"),
        SAMPLE.replace("enrolled: migrate", "enrolled: move"),
        SAMPLE.replace("wait: {delay: 3d}", "wait: {dealy: 3d}"),
        SAMPLE.replace("{delay: 3d}", "{delay: 3}"),
        SAMPLE.replace("topics: {news: true}", "topics: {news: maybe}"),
        SAMPLE.replace("id: hello", "id: Hello"),
        SAMPLE.partition("steps:")[0],
    ],
)
def test_what_the_reader_refuses_by_its_keys_and_kinds_an_editor_underlines(wrong: str) -> None:
    with pytest.raises(DefinitionError):
        loads(wrong, "wrong.yaml")
    assert list(VALIDATOR.iter_errors(yaml(wrong)))


def test_the_command_prints_it() -> None:
    app = typer.Typer()
    commands.register(app)
    printed = CliRunner().invoke(app, ["sequence", "schema"])
    assert json.loads(printed.stdout) == SCHEMA
