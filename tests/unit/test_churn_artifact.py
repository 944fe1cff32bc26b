"""An artifact is looked at before it is believed; a table before it is learned from."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("skops", reason="the extra ml is not installed")

import skops.io
from sklearn.dummy import DummyClassifier
from sklearn.preprocessing import FunctionTransformer

from tasks.churn import own_table, table
from tasks.churn.artifact import Artifact, Refused, pack, unpack
from tasks.churn.drift import drifts, reference
from tasks.churn.engine import ChurnModel
from tasks.errors import Permanent
from tests.unit.test_churn_model import rows


@pytest.fixture(scope="module")
def good() -> Artifact:
    frame, gone = rows()
    return pack("churn", ChurnModel("boosting").fit(frame, gone), frame, {"report": {}})


def resealed(artifact: Artifact, data: bytes) -> Artifact:
    """With other bytes, and a manifest that agrees with them."""
    import hashlib

    sha = hashlib.sha256(data).hexdigest()
    return replace(artifact, data=data, manifest=artifact.manifest | {"sha256": sha})


@pytest.mark.parametrize("kind", ["logistic", "boosting", "mlp"])
def test_what_was_packed_answers_the_same(kind: str) -> None:
    frame, gone = rows()
    model = ChurnModel(kind).fit(frame, gone)
    packed = pack("churn", model, frame, {})
    again = unpack(replace(packed, manifest=json.loads(json.dumps(packed.manifest))))
    assert (again.predict_proba(frame) == model.predict_proba(frame)).all()


def test_a_byte_that_changed_is_found(good: Artifact) -> None:
    broken = bytearray(good.data)
    broken[len(broken) // 2] ^= 1
    with pytest.raises(Refused, match="is corrupt: its bytes do not have the hash"):
        unpack(replace(good, data=bytes(broken)))


def test_a_pickle_in_its_place_is_never_run(good: Artifact, tmp_path: Path) -> None:
    mark = tmp_path / "it ran"

    class Payload:
        def __reduce__(self) -> Any:
            return (Path.touch, (mark,))

    with pytest.raises(Refused, match="is a pickle, which is code that runs"):
        unpack(resealed(good, pickle.dumps(Payload())))
    assert not mark.exists()


def test_what_is_no_skops_file_or_holds_a_foreign_type_is_refused(good: Artifact) -> None:
    for junk in (b"", b"PK\x03\x04", b"nonsense"):
        with pytest.raises(Refused, match="is no skops file"):
            unpack(resealed(good, junk))
    foreign = skops.io.dumps(FunctionTransformer(func=json.loads))
    with pytest.raises(Refused, match=r"holds json.*no model of ours has such a part"):
        unpack(resealed(good, foreign))
    with pytest.raises(Refused, match="is no skops file"):
        unpack(resealed(good, good.data[: len(good.data) // 2]))


def test_one_of_another_release_or_with_other_answers_is_refused(good: Artifact) -> None:
    old = good.manifest | {"versions": {"scikit-learn": "0.24.2"}}
    with pytest.raises(Refused, match=r"was made by scikit-learn 0\.24\.2, and .* is installed"):
        unpack(replace(good, manifest=old))
    other = skops.io.dumps(DummyClassifier(strategy="prior").fit([[0], [1]], [0, 1]))
    with pytest.raises(Refused, match="answers otherwise than when it was made"):
        unpack(resealed(good, other))


def test_a_table_is_read_with_its_gaps_and_types_and_without_its_identifiers(
    tmp_path: Path,
) -> None:
    path = tmp_path / "telco.csv"
    lines = ["customerID;tenure;TotalCharges;Contract;Empty;Same;Churn"]
    lines += [
        f"{n:04}-ABC;{n % 70};{' ' if n % 50 == 0 else n * 1.5};{'Month' if n % 3 else 'Year'};;x;"
        f"{'Yes' if n % 4 == 0 else 'No'}"
        for n in range(300)
    ]
    path.write_text("\n".join(lines))
    found = table.read(path, "Churn")
    assert list(found.frame.columns) == ["tenure", "TotalCharges", "Contract"]
    assert found.frame["TotalCharges"].isna().sum() == 6
    assert found.word == "Yes" and found.positive.sum() == 75
    assert found.left_out["customerID"].startswith("an identifier")
    assert (found.left_out["Empty"], found.left_out["Same"]) == ("empty", "constant")


@pytest.mark.parametrize(
    ("label", "values", "why"),
    [
        ("churned", "yes no", "has no column 'churned': its columns are a, churn"),
        ("churn", "yes", r"is 'yes' in every row: two classes were expected"),
        (
            "churn",
            "yes no maybe",
            "has 3 values .* name the one that means churned with --positive",
        ),
    ],
)
def test_a_label_that_is_none_is_refused_in_words(
    tmp_path: Path, label: str, values: str, why: str
) -> None:
    path = tmp_path / "t.csv"
    words = values.split()
    path.write_text("a,churn\n" + "".join(f"{n},{words[n % len(words)]}\n" for n in range(120)))
    with pytest.raises(Permanent, match=why):
        own_table.train(own_table.Asked(path, label))


def test_ten_rows_are_refused_and_a_missing_column_is_named(tmp_path: Path) -> None:
    small, large = tmp_path / "small.csv", tmp_path / "large.csv"
    header, lines = (
        "days,plan,churn\n",
        [f"{n % 50},{'ab'[n % 2]},{n % 50 > 30}\n" for n in range(400)],
    )
    small.write_text(header + "".join(lines[26:36]))
    large.write_text(header + "".join(lines))
    with pytest.raises(Permanent, match=r"10 rows of small\.csv: at least 100 were expected"):
        own_table.train(own_table.Asked(small, "churn"))
    folder = tmp_path / "model"
    own_table.write(own_table.train(own_table.Asked(large, "churn", kinds=("logistic",))), folder)
    scored = own_table.score(folder, large)
    assert scored["score"].between(0, 1).all() and len(scored) == 400
    large.write_text("days,churn\n1,True\n")
    with pytest.raises(Permanent, match=r"large.csv has no column 'plan': the model was fitted to"):
        own_table.score(folder, large)
    (folder / "model.skops").write_bytes(b"\x80\x04}.")
    with pytest.raises(Refused, match=r"model.skops is corrupt"):
        own_table.score(folder, large)


def test_drift_is_rarely_seen_where_there_is_none_and_always_a_shift_of_a_fifth() -> None:
    chance = np.random.default_rng(5)
    wrong = caught = 0
    for _ in range(200):
        known = reference(pd.DataFrame({"x": chance.normal(size=3333)}))
        (same,) = drifts(known, pd.DataFrame({"x": chance.normal(size=1667)}))
        (moved,) = drifts(known, pd.DataFrame({"x": chance.normal(0.2, size=1667)}))
        wrong += same.drifted
        caught += moved.drifted
        assert moved.psi < 0.1, "the folklore's bound would not have seen it"
        assert same.bound == pytest.approx(0.015, abs=0.001)
    assert wrong <= 20 and caught >= 198


def test_drift_sees_a_new_category_and_a_gap_that_was_none() -> None:
    known = reference(pd.DataFrame({"plan": ["a", "b"] * 300, "x": np.arange(600.0)}))
    now = pd.DataFrame({"plan": ["a", "c"] * 300, "x": [np.nan] * 300 + list(range(300))})
    assert {d.feature for d in drifts(known, now) if d.drifted} == {"plan", "x"}
    calm = pd.DataFrame({"plan": ["b", "a"] * 300, "x": np.arange(600.0)})
    assert not any(d.drifted for d in drifts(known, calm))
