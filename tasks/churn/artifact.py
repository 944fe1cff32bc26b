"""A fitted model as bytes: skops, never pickle; looked at before it is believed.

A pickle is code that runs when it is read. A skops file is a zip of JSON and arrays, whose types
are held against a list before any of them is made. What was changed on its way (hash), was made by
another scikit-learn, or no longer says what it said when it was made (probe) is refused too.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tasks.errors import Permanent

if TYPE_CHECKING:  # who lists or asks needs no model, and not the extra either
    import pandas as pd

FORMAT: Final = 1
PROBES: Final = 5  # rows whose answers are kept with the model
LARGEST: Final = 200 * 2**20

TRUSTED: Final = (
    "tasks.churn.engine.ChurnModel",
    "tasks.churn.prepare.SignedLog",
    "tasks.churn.uplift.UpliftModel",
    "tasks.churn.value.LifetimeModel",
    "numpy.dtype",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
)
"""The types an artifact may hold beside those that skops trusts by itself: data, and no function."""


class Refused(Permanent):
    """An artifact that is not used; the champion stays who it is."""


@dataclass(frozen=True, slots=True)
class Artifact:
    """A model, and everything that is known about it.

    Attributes:
        id: its name and the first twelve digits of the hash of its bytes.
        name: of the score it makes.
        data: the skops file.
        manifest: format, name, kind, sha256, versions, schema, cutoff, metrics …; JSON.
    """

    id: str
    name: str
    data: bytes
    manifest: dict[str, Any]


def pack(name: str, model: Any, sample: pd.DataFrame, facts: Mapping[str, Any]) -> Artifact:
    """Make an artifact.

    Args:
        name: of the score it makes.
        model: a fitted `ChurnModel`, `LifetimeModel` or `UpliftModel`.
        sample: rows it can predict; the first ones become its probe.
        facts: what else the manifest says.
    """
    import skops.io

    data = skops.io.dumps(model)
    digest = hashlib.sha256(data).hexdigest()
    probe = sample.head(PROBES).reset_index(drop=True)
    manifest = {
        "format": FORMAT,
        "name": name,
        "sha256": digest,
        "versions": versions(),
        "columns": [str(column) for column in sample.columns],
        "probe": {
            "rows": json.loads(probe.to_json(orient="split", double_precision=15)),
            "answers": [float(each) for each in answer(model, probe)],
        },
        **facts,
    }
    return Artifact(f"{name}-{digest[:12]}", name, data, manifest)


def unpack(artifact: Artifact) -> Any:
    """The model of an artifact.

    Raises:
        Refused: its bytes are not what was stored, are no skops file, hold a type that no model of
            ours has, come from another scikit-learn, or answer otherwise than they did.
    """
    import skops.io

    what, manifest = f"artifact {artifact.id}", artifact.manifest
    if hashlib.sha256(artifact.data).hexdigest() != manifest.get("sha256"):
        raise Refused(
            f"{what} is corrupt: its bytes do not have the hash that its manifest names;"
            " restore it, or roll back"
        )
    _require_skops(what, artifact.data)
    made = manifest.get("versions", {}).get("scikit-learn", "unknown")
    here = versions()["scikit-learn"]
    if made.split(".")[:2] != here.split(".")[:2]:
        raise Refused(
            f"{what} was made by scikit-learn {made}, and {here} is installed: the same one was"
            " expected; train again"
        )
    try:
        foreign = sorted(set(skops.io.get_untrusted_types(data=artifact.data)) - set(TRUSTED))
        if foreign:
            raise Refused(
                f"{what} holds {', '.join(foreign[:3])}: no model of ours has such a part, and"
                " nothing of it was loaded; train again"
            )
        model = skops.io.loads(artifact.data, trusted=list(TRUSTED))
    except Refused:
        raise
    except Exception as fault:
        raise Refused(f"{what} cannot be read ({type(fault).__name__}); train again") from fault
    _require_same_answers(what, model, manifest)
    return model


def answer(model: Any, frame: pd.DataFrame) -> Any:
    """What a model says of each row (n,): the probability of its positive class, or its value."""
    if hasattr(model, "predict_proba"):
        return model.predict_proba(frame)[:, 1]
    return model.predict(frame)


def versions() -> dict[str, str]:
    """Versions of what an artifact depends on."""
    from importlib.metadata import version

    return {name: version(name) for name in ("scikit-learn", "numpy", "pandas", "scipy", "skops")}


def _require_skops(what: str, data: bytes) -> None:
    if data[:1] == b"\x80":
        raise Refused(
            f"{what} is a pickle, which is code that runs when it is read: a skops file was expected;"
            " nothing of it was loaded, train again"
        )
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            size = sum(each.file_size for each in archive.infolist())
            whole = "schema.json" in archive.namelist()
    except zipfile.BadZipFile:
        whole, size = False, 0
    if not whole:
        raise Refused(f"{what} is no skops file; restore it, or train again")
    if size > LARGEST:
        raise Refused(f"{what} unpacks to {size} bytes: at most {LARGEST} were expected")


def _require_same_answers(what: str, model: Any, manifest: Mapping[str, Any]) -> None:
    import numpy as np
    import pandas as pd

    probe = manifest.get("probe")
    if not isinstance(probe, dict):
        raise Refused(f"{what} has no probe in its manifest; train again")
    try:
        rows = probe["rows"]
        frame = pd.DataFrame(rows["data"], columns=rows["columns"])
        found = answer(model, frame)
    except Exception as fault:
        raise Refused(f"{what} does not answer its probe ({fault}); train again") from fault
    if not np.allclose(found, probe["answers"], rtol=1e-6, atol=1e-9, equal_nan=True):
        raise Refused(f"{what} answers otherwise than when it was made; train again")
