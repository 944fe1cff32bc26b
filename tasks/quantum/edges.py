"""A weighted graph from a file of edges."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from tasks.quantum.engine.problem import BadGraph

if TYPE_CHECKING:
    import networkx as nx

LARGEST: Final = 1_000_000


def read(path: str | os.PathLike[str]) -> nx.Graph[str]:
    """The graph of a CSV file with the columns source, target and, if wanted, weight.

    Edges that stand twice add up.

    Raises:
        BadGraph: the file is none of that; the message names the line.
        OSError: it cannot be read.
    """
    import networkx as nx

    name = os.fspath(path)
    with Path(path).open("rb") as file:
        raw = file.read(LARGEST + 1)
    if len(raw) > LARGEST:
        raise BadGraph(
            f"{name} is larger than {LARGEST} bytes: expected the edges of a small graph"
        )
    try:
        lines = csv.DictReader(raw.decode("utf-8-sig").splitlines())
        fields = [field.strip().lower() for field in lines.fieldnames or []]
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadGraph(f"{name} is no CSV in UTF-8 ({error}): save it as that") from None
    if not {"source", "target"} <= set(fields):
        raise BadGraph(
            f"{name} has the columns {', '.join(fields) or 'of nothing'}: expected source, target"
            " and, if wanted, weight"
        )
    lines.fieldnames = fields
    graph: nx.Graph[str] = nx.Graph()
    for row in lines:
        where = f"{name}:{lines.line_num}"
        u, v = (str(row.get(key) or "").strip() for key in ("source", "target"))
        if not u or not v:
            raise BadGraph(f"{where}: an edge needs two ends: expected source and target")
        text = str(row.get("weight") or "").strip()
        try:
            weight = float(text) if text else 1.0
        except ValueError:
            raise BadGraph(f"{where}: weight {text[:40]!r}: expected a number") from None
        before = graph.edges[u, v]["weight"] if graph.has_edge(u, v) else 0.0
        graph.add_edge(u, v, weight=before + weight)
    return graph
