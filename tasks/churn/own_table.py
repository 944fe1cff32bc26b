"""An operator's own table from file to artifact folder, and rows scored by it: no database needed.

A folder holds `model.skops`, `manifest.json`, and the model card with its plots.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd

from tasks.churn import card, contest, table
from tasks.churn.artifact import Artifact, Refused, answer, pack, unpack
from tasks.churn.contest import Part
from tasks.churn.drift import reference, score_reference
from tasks.churn.engine import KINDS
from tasks.churn.explain import typical
from tasks.errors import Permanent

MODEL: Final = "model.skops"
MANIFEST: Final = "manifest.json"
SHARE: Final = 0.7  # of the rows that a model is fitted to, where nobody says how many


@dataclass(frozen=True, slots=True)
class Asked:
    """What to train on: a file, its label, how it is split; see `dripfleet churn train --help`."""

    path: Path
    label: str
    positive: str | None = None
    drop: tuple[str, ...] = ()
    train_rows: int | None = None
    kinds: tuple[str, ...] = KINDS
    seed: int = 0


def train(asked: Asked) -> Artifact:
    """Fit the kinds to a table, choose one, and test it on the rest.

    Without `train_rows` seven rows of ten are drawn for the fit, the classes as in the whole.

    Raises:
        BadTable: the file or its label cannot be used.
        TooLittle: too few rows, or of one class.
    """
    read = table.read(asked.path, asked.label, asked.positive, asked.drop)
    whole = Part(read.frame, read.positive)
    contest.require_enough(whole, f"of {asked.path.name}", repr(read.word))
    fit_rows, test_rows = _split(asked, read.positive)
    fit, test = (
        Part(read.frame.iloc[rows].reset_index(drop=True), read.positive[rows])
        for rows in (fit_rows, test_rows)
    )
    outcome = contest.compete(
        fit, None, test, [], of=repr(read.word), kinds=asked.kinds, seed=asked.seed
    )
    return pack(
        _name(asked.path),
        outcome.model,
        test.table,
        {
            "kind": outcome.model.kind,
            "foretells": f"the probability that {asked.label!r} is {read.word!r}",
            "of": read.word,
            "horizon_days": None,
            "cutoff": None,
            "seed": asked.seed,
            "left_out": read.left_out,
            "data_sha256": read.sha256,
            "typical": typical(fit.table),
            "reference": reference(test.table),
            "scores": score_reference(outcome.model, test.table),
            "report": outcome.report,
            "source": asked.path.name,
        },
    )


def write(artifact: Artifact, folder: Path) -> list[Path]:
    """Write an artifact's folder; the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MODEL).write_bytes(artifact.data)
    text = json.dumps(artifact.manifest, indent=1, ensure_ascii=False)
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    cards = card.write(artifact.manifest, artifact.id, folder)
    return [folder / MODEL, folder / MANIFEST, *cards]


def load(folder: Path) -> tuple[Any, dict[str, Any]]:
    """The model of a folder, looked at, and its manifest.

    Raises:
        Permanent: it is no such folder.
        Refused: the artifact is not sound.
    """
    try:
        data = (folder / MODEL).read_bytes()
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
    except (OSError, ValueError) as fault:
        raise Permanent(
            f"{folder} holds no artifact ({fault}): expected {MODEL} and {MANIFEST}, as"
            " `dripfleet churn train --data … --out` writes them"
        ) from fault
    if not isinstance(manifest, dict) or "sha256" not in manifest:
        raise Refused(f"{folder / MANIFEST} is no manifest of an artifact; train again")
    name = str(manifest.get("name", folder.name))
    return unpack(Artifact(str(folder / MODEL), name, data, manifest)), manifest


def score(folder: Path, path: Path) -> pd.DataFrame:
    """The rows of a file with their score, in a column `score`.

    Raises:
        Refused: the artifact is not sound.
        BadTable: the file cannot be read, or lacks a column.
    """
    model, manifest = load(folder)
    raw, _ = table.load(path)
    missing = [name for name in manifest["columns"] if name not in raw.columns]
    if missing:
        raise table.BadTable(
            f"{path.name} has no column {', '.join(map(repr, missing))}: the model was fitted to"
            f" {', '.join(manifest['columns'])}; bring it, or train without it (--drop)"
        )
    rows = raw[manifest["columns"]].apply(lambda column: column.str.strip())
    try:
        raw["score"] = np.round(answer(model, rows), 6)
    except ValueError as fault:
        raise table.BadTable(f"{path.name}: {fault}") from fault
    return raw


def _split(asked: Asked, positive: Any) -> tuple[Any, Any]:
    rows = np.arange(len(positive))
    if asked.train_rows is not None:
        if not 0 < asked.train_rows < len(rows):
            raise Permanent(
                f"--train-rows is {asked.train_rows} and {asked.path.name} has {len(rows)} rows:"
                " some of them have to be left for the test"
            )
        return rows[: asked.train_rows], rows[asked.train_rows :]
    chance = np.random.default_rng(asked.seed)
    drawn = np.zeros(len(rows), dtype=bool)
    for side in (positive, ~positive):
        there = chance.permutation(np.flatnonzero(side))
        drawn[there[: round(SHARE * len(there))]] = True
    return rows[drawn], rows[~drawn]


def _name(path: Path) -> str:
    return path.name.split(".")[0] or "table"
