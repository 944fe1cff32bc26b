"""`dripfleet quantum`: segments by quantum algorithms, and who really won."""

from __future__ import annotations

import sys

import typer

from workers.cli import quantum_files
from workers.cli.quantum_segment import segment
from workers.cli.render import emit, say

quantum = typer.Typer(
    no_args_is_help=True, help="Segment subscribers by quantum algorithms, beside classical ones."
)
quantum.add_typer(segment, name="segment")
quantum.command(
    epilog="Examples:\n\ndripfleet quantum search graph.csv\n\n"
    "dripfleet quantum search graph.csv --runs 30 --json",
)(quantum_files.search)
quantum.command(
    epilog="Examples:\n\ndripfleet quantum cluster customers.csv\n\n"
    "dripfleet quantum cluster customers.csv -k 4 --bandwidth 0.1 --json",
)(quantum_files.cluster)

AS_JSON = typer.Option(False, "--json", help="JSON on a terminal too.")


def register(app: typer.Typer) -> None:
    """Add `dripfleet quantum`."""
    app.add_typer(quantum, name="quantum")


@quantum.command(
    epilog="Examples:\n\ndripfleet quantum backends\n\ndripfleet quantum backends --json"
)
def backends(as_json: bool = AS_JSON) -> None:
    """List where circuits can run: what each is, and what keeps it from running here."""
    from tasks.quantum.backends.registry import REGISTRY, why_not

    rows = []
    for spec in REGISTRY.values():
        reason = why_not(spec)
        rows.append(
            {
                "backend": spec.name,
                "kind": spec.kind,
                "what": spec.title,
                "qubits": spec.max_qubits,
                "gates": " ".join(spec.gates),
                "coupling": spec.coupling,
                "queue": "quantum-noisy" if spec.slow else "quantum",
                "runs_here": reason is None,
                "why_not": reason,
            }
        )
    emit(rows, title="Backends", as_json=as_json)


@quantum.command(
    epilog="Examples:\n\ndripfleet quantum solve graph.csv\n\n"
    "dripfleet quantum solve graph.csv --layers 4 --backend engine --json",
)
def solve(
    file: str = typer.Argument(help="Edges: a CSV file with the columns source, target, weight."),
    layers: int | None = typer.Option(
        None, min=1, max=8, help="Layers of QAOA; by default 3, with noise 1."
    ),
    backend: str = typer.Option("engine", help="Where circuits are measured."),
    shots: int | None = typer.Option(
        None,
        min=16,
        max=100_000,
        help="Measurements of each seed; by default 1024, with noise 256.",
    ),
    seeds: int = typer.Option(10, min=1, max=100, help="Seeds; a verdict needs ten."),
    seed: int = typer.Option(0, min=0, help="The first of them."),
    as_json: bool = AS_JSON,
) -> None:
    """Cut a weighted graph in two by QAOA, beside every classical solver, and say who won.

    Needs no server. Weights may be negative; an edge without one weighs 1.
    """
    from tasks.quantum.backends.registry import open_backend, spec_of

    opened, kind = open_backend(backend), spec_of(backend).kind
    need_extra()
    from tasks.quantum import report
    from tasks.quantum.edges import read
    from tasks.quantum.engine import problem_of, trial
    from tasks.quantum.request import usual
    from tasks.quantum.stages import measure_on

    problem = problem_of(read(file))
    layers, shots = layers or usual(backend)["layers"], shots or usual(backend)["shots"]
    held = trial(
        problem, layers, shots=shots, seed=seed, seeds=seeds, kind=kind, measure=measure_on(opened)
    )
    told = report.trial_json(problem, held, layers)
    sides = {str(name): int(side) for name, side in zip(problem.names, held.best.bits, strict=True)}
    if as_json or not sys.stdout.isatty():
        emit({**told, "backend": backend, "kind": kind, "sides": sides}, as_json=True)
    else:
        cut = {"number": 1, "trial": told}
        emit(report.rows({"cuts": [cut]}), title=f"{problem.n} vertices")
    say(f"{told['verdict']}: {told['why']}")


@quantum.command(
    "compile",
    epilog="Examples:\n\ndripfleet quantum compile\n\n"
    "dripfleet quantum compile --device google-willow --qubits 10 --layers 1",
)
def compile_(
    device: str | None = typer.Option(None, help="google-rainbow, google-willow or ibm-fake."),
    qubits: int | None = typer.Option(None, min=2, max=20, help="Vertices of the graph."),
    layers: int = typer.Option(1, min=1, max=8, help="Layers of QAOA."),
    seed: int = typer.Option(1, min=0, help="Of the graphs and of the search."),
    as_json: bool = AS_JSON,
) -> None:
    """Show two-qubit gates and depth of QAOA on a device's lattice, before and after our layout.

    Before: the terms as they come, routed by cirq. After: ours. With the extra `ibm`, qiskit's
    transpiler at level 3 stands beside it, for the same lattice and gate, as the median of 5 seeds.
    """
    need_extra()
    from tasks.quantum.comparison import TABLE, compare

    wanted = [
        row
        for row in TABLE
        if (device is None or row[0] == device) and (qubits is None or row[1] == qubits)
    ]
    if not wanted and device is not None and qubits is not None:
        wanted = [(device, qubits, "3-regular"), (device, qubits, "complete")]
    rows = [compare(name, n, kind, layers, seed) for name, n, kind in wanted]
    emit(rows, title="Two-qubit gates and depth", as_json=as_json)


def need_extra() -> None:
    """Raises Misconfigured where the extra `quantum` is not installed."""
    from importlib.util import find_spec

    from tasks.errors import Misconfigured

    missing = [name for name in ("cirq", "numba", "sklearn") if find_spec(name) is None]
    if missing:
        raise Misconfigured(f"{', '.join(missing)} not installed: pip install 'dripfleet[quantum]'")
