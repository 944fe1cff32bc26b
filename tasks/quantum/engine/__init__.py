"""The quantum engine: values in, values out; no database, no broker, and no cirq.

``problem`` a graph as numbers · ``kernels`` loops over amplitudes · ``qaoa`` ⟨C⟩, gradient,
samples · ``angles``, ``optimum`` where to begin and the best · ``tree`` graphs without short cycles
· ``grover``, ``fidelity`` the other two algorithms · ``graphs`` points to be split · ``classical``
the rivals · ``trial``, ``verdict`` a fair comparison, and who won.
"""

from tasks.quantum.engine.fidelity import clusters, zz_kernel
from tasks.quantum.engine.grover import grover_success, minimum_search
from tasks.quantum.engine.optimum import Optimum, optimize
from tasks.quantum.engine.problem import BadGraph, Problem, problem_from, problem_of
from tasks.quantum.engine.qaoa import Qaoa, qaoa_expectation
from tasks.quantum.engine.trial import Solution, Trial, solve, trial
from tasks.quantum.engine.verdict import Evidence, Series, Verdict, judge

__all__ = [
    "BadGraph", "Evidence", "Optimum", "Problem", "Qaoa", "Series", "Solution", "Trial", "Verdict",
    "clusters", "grover_success", "judge", "minimum_search", "optimize", "problem_from",
    "problem_of", "qaoa_expectation", "solve", "trial", "zz_kernel",
]  # fmt: skip
