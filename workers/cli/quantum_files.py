"""`dripfleet quantum search` and `cluster`: Grover's search and the fidelity kernel, on a file of yours."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from workers.cli.render import emit, say

AS_JSON = typer.Option(False, "--json", help="JSON on a terminal too.")


def search(
    file: Path = typer.Argument(help="Edges: a CSV file with the columns source, target, weight."),
    runs: int = typer.Option(10, min=1, max=100, help="Searches, each with its seed."),
    seed: int = typer.Option(0, min=0, help="The first of them."),
    as_json: bool = AS_JSON,
) -> None:
    """Search the largest cut of a small graph with Grover circuits, and count the queries.

    Dürr and Høyer's minimum search, on cirq's simulator, beside looking at every cut. Needs no
    server. On a simulator it saves no time: each query computes every value.
    """
    from workers.cli.quantum import need_extra

    need_extra()
    from tasks.quantum.edges import read
    from tasks.quantum.engine import problem_of
    from tasks.quantum.search import largest_cut

    told = largest_cut(problem_of(read(file)), seed=seed, runs=runs)
    if as_json or not sys.stdout.isatty():
        emit(told, as_json=True)
    else:
        emit(told["runs"], title=f"{told['vertices']} vertices, {told['qubits']} qubits")
    say(
        f"{told['found']:.0%} of {runs} searches found the largest cut, {told['optimum']:g}, in"
        f" {told['queries']:.0f} queries (bound of the mean {told['bound']:.0f}); looking at every"
        f" cut takes {told['every_cut']}"
    )


def cluster(
    file: Path = typer.Argument(help="A CSV file; its columns of numbers count, a qubit each."),
    clusters: int = typer.Option(3, "--clusters", "-k", min=2, help="How many."),
    bandwidth: float = typer.Option(0.2, min=0.001, max=10, help="Of the kernel: 0.1 to 0.3."),
    seed: int = typer.Option(0, min=0, help="Of the k-means within."),
    as_json: bool = AS_JSON,
) -> None:
    """Cluster the rows of a table by the fidelity kernel of the ZZ feature map, beside k-means.

    Columns are standardized. The kernel is computed exactly: what a device would estimate from
    shots. Needs no server.
    """
    from workers.cli.quantum import need_extra

    need_extra()
    from tasks.quantum.kernel import compared, read

    rows = compared(read(file), clusters, bandwidth=bandwidth, seed=seed)
    if not (as_json or not sys.stdout.isatty()):
        rows = [{name: v for name, v in row.items() if name != "labels"} for row in rows]
    emit(rows, title=f"{clusters} clusters", as_json=as_json)
    best = max(rows, key=lambda row: row["silhouette"] or -1)
    say(f"the best silhouette has the {best['method']}")
