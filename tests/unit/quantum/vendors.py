"""Vendors on loopback: IonQ's, AQT's, Pasqal's and IBM's APIs and Rigetti's QVM, over real circuits.

Each runs what it was sent on a simulator, and returns bits in its vendor's own order. What goes
wrong is said at the start: it answers nothing, refuses us, never finishes, or breaks.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

import numpy as np

IBM_INSTANCE = "crn:v1:bluemix:public:quantum-computing:us-east:a/1:2::"
UNSIGNED = ("/identity/token",)
"""Where one asks for a token, and has none yet."""

Fault = Literal["", "refuses", "never", "breaks", "hangs", "garbage"]


class Vendor:
    """One server; `requests` are (method, path, authorization, body)."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.requests: list[tuple[str, str, str | None, Any]] = []
        self.jobs: dict[str, Any] = {}
        self.released = threading.Event()
        self.url = ""

    def answer(self, method: str, path: str, body: bytes, headers: Any) -> tuple[int, Any]:
        """Status, and JSON or text."""
        self.requests.append((method, path, headers.get("Authorization"), body))
        if self.fault == "hangs":
            self.released.wait(30)
        if self.fault == "refuses":
            return 401, {"error": "who are you", "message": "no"}
        if self.fault == "breaks":
            return 400, {"error": "broken", "message": "broken"}
        if path.startswith(("/identity/", "/v3/", "/plan", "/experimental/")):
            return self._ibm(method, path.partition("?")[0], body)
        if path == "/":
            return self._qvm(body)
        if "/v0.4/" in path:
            return self._ionq(method, path, body)
        if "/simulate/" in path or "/get-result/" in path:
            return self._pasqal(path, body, headers)
        return self._aqt(method, path, body)

    def _ionq(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        if method == "POST":
            job = json.loads(body)
            self.jobs["j1"] = job
            return 200, {"id": "j1", "status": "ready"}
        job = self.jobs["j1"]
        n = job["input"]["qubits"]
        if path.endswith("/results/probabilities"):
            if self.fault == "garbage":
                return 200, {"x": "y"}
            state = ionq_state(job["input"]["circuit"], n)
            chances = np.abs(state) ** 2
            # Index bit q is qubit q: IonQ's little endian.
            return 200, {str(k): float(c) for k, c in enumerate(chances) if c > 1e-12}
        status = "running" if self.fault == "never" else "completed"
        return 200, {
            "id": "j1", "status": status, "backend": job["backend"], "metadata": job["metadata"],
            "stats": {"qubits": n}, "qubits": n,
        }  # fmt: skip

    def _aqt(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        if method == "POST":
            self.jobs["a1"] = json.loads(body)["payload"]["circuits"][0]
            return 200, {"job": {"job_id": "a1"}, "response": {"status": "queued"}}
        if self.fault == "never":
            return 200, {"job": {"job_id": "a1"}, "response": {"status": "ongoing"}}
        if self.fault == "garbage":
            return 200, {"response": {"status": "finished", "result": {"0": [[0], [1]]}}}
        circuit = self.jobs["a1"]
        n, shots = circuit["number_of_qubits"], circuit["repetitions"]
        bits = draw(aqt_state(circuit["quantum_circuit"], n), n, shots)
        return 200, {"response": {"status": "finished", "result": {"0": bits.tolist()}}}

    def _pasqal(self, path: str, body: bytes, headers: Any) -> tuple[int, Any]:
        import cirq

        if "/submit" in path:
            circuit = cirq.read_json(json_text=body.decode())
            self.jobs["p1"] = circuit, int(headers["Repetitions"])
            return 200, "p1"
        if self.fault == "never":
            return 200, ""
        if self.fault == "garbage":
            return 200, "not json"
        circuit, shots = self.jobs["p1"]
        return 200, cirq.to_json(cirq.Simulator(seed=3).run(circuit, repetitions=shots))

    def _qvm(self, body: bytes) -> tuple[int, Any]:
        from tasks.quantum.backends.rigetti import read

        asked = json.loads(body)
        assert asked["type"] == "multishot" and asked["addresses"] == {"ro": True}
        if self.fault == "garbage":
            return 200, {"ro": [[0], [1]]}
        import cirq

        (bits,) = cirq.Simulator(seed=4).run(
            read(asked["compiled-quil"]), repetitions=asked["trials"]
        ).measurements.values()  # fmt: skip
        return 200, {"ro": bits.tolist()}

    def _ibm(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        if path == "/identity/token":
            return 200, ibm_token()
        if path == "/v3/resources/search":
            return 200, {"items": [ibm_instance()]}
        if path == "/plan":
            return 200, {"metadata": {"pricing": {"type": "free"}}}
        way = path.removeprefix("/experimental")
        if way == "/backends":
            return 200, {"devices": [{"name": "ibm_guadalupe"}]}
        if way.startswith("/backends/"):
            what = {"configuration": "conf", "properties": "props"}.get(way.rpartition("/")[2])
            return 200, ibm_device(what) if what else {"state": True, "status": "active"}
        if method == "POST" and way == "/jobs":
            self.jobs["i1"] = body.decode()
            return 200, {"id": "i1", "backend": "ibm_guadalupe"}
        if way.endswith("/results"):
            return 200, "{}" if self.fault == "garbage" else ibm_result(self.jobs["i1"])
        status = "Running" if self.fault == "never" else "Completed"
        return 200, {"id": "i1", "backend": "ibm_guadalupe", "status": status,
                     "state": {"status": status}, "program": {"id": "sampler"}}  # fmt: skip


@contextmanager
def vendor(fault: Fault = "") -> Iterator[Vendor]:
    """A vendor that runs while the context lasts."""
    kept = Vendor(fault)

    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            status, answer = kept.answer(
                self.command, self.path, self.rfile.read(length), self.headers
            )
            raw = answer if isinstance(answer, str) else json.dumps(answer)
            self.send_response(status)
            if not isinstance(answer, str):
                self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw.encode())))
            self.end_headers()
            self.wfile.write(raw.encode())

        do_GET = do_POST = do_PUT = _do

        def log_message(self, format: str, *args: Any) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    kept.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield kept
    finally:
        kept.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


def ionq_state(gates: list[dict[str, Any]], n: int) -> Any:
    """The final state of a circuit in IonQ's JSON; index bit q is qubit q."""
    x, y, z = np.array([[0, 1], [1, 0]]), np.array([[0, -1j], [1j, 0]]), np.diag([1, -1])
    state = np.zeros(1 << n, dtype=complex)
    state[0] = 1
    for gate in gates:
        kind = gate["gate"]
        turn = gate.get("rotation", 0.0)
        target = gate["targets"][0]
        if kind == "h":
            state = one(state, n, target, np.array([[1, 1], [1, -1]]) / np.sqrt(2))
        elif kind in ("rx", "ry", "rz"):
            axis = {"rx": x, "ry": y, "rz": z}[kind]
            matrix = np.cos(turn / 2) * np.eye(2) - 1j * np.sin(turn / 2) * axis
            state = one(state, n, target, matrix)
        elif kind == "zz":
            a, b = gate["targets"]
            index = np.arange(1 << n)
            parity = 1 - 2 * (((index >> a) ^ (index >> b)) & 1)
            state = state * np.exp(-0.5j * turn * parity)
        else:
            raise AssertionError(f"IonQ's API was sent {gate}")
    return state


def aqt_state(gates: list[dict[str, Any]], n: int) -> Any:
    """The final state of a circuit in AQT's JSON (angles in units of π); index bit q is qubit q."""
    x, y = np.array([[0, 1], [1, 0]]), np.array([[0, -1j], [1j, 0]])
    state = np.zeros(1 << n, dtype=complex)
    state[0] = 1
    for gate in gates:
        kind = gate["operation"]
        if kind == "RZ":
            angle = gate["phi"] * np.pi
            state = one(state, n, gate["qubit"], np.diag(np.exp([-0.5j * angle, 0.5j * angle])))
        elif kind == "R":
            angle, phi = gate["theta"] * np.pi, gate["phi"] * np.pi
            axis = np.cos(phi) * x + np.sin(phi) * y
            matrix = np.cos(angle / 2) * np.eye(2) - 1j * np.sin(angle / 2) * axis
            state = one(state, n, gate["qubit"], matrix)
        elif kind == "RXX":
            a, b = gate["qubits"]
            angle = gate["theta"] * np.pi / 2
            flipped = state[np.arange(1 << n) ^ (1 << a) ^ (1 << b)]
            state = np.cos(angle) * state - 1j * np.sin(angle) * flipped
        else:
            assert kind == "MEASURE", f"AQT's API was sent {gate}"
    return state


def one(state: Any, n: int, q: int, matrix: Any) -> Any:
    """A gate on qubit q."""
    pairs = state.reshape(-1, 2, 1 << q)
    return np.einsum("ab,ibj->iaj", matrix, pairs).reshape(-1)


def draw(state: Any, n: int, shots: int) -> Any:
    """Bits, shape (shots, n)."""
    chances = np.abs(state) ** 2
    found = np.random.default_rng(5).choice(len(chances), size=shots, p=chances / chances.sum())
    return (found[:, None] >> np.arange(n)) & 1


def ibm_token() -> dict[str, Any]:
    """What IAM answers; the token is a JWT, whose times its client reads."""
    import base64
    import time

    now = int(time.time())
    parts = ({"alg": "HS256", "typ": "JWT"}, {"iat": now, "exp": now + 3600})
    made = [base64.urlsafe_b64encode(json.dumps(p).encode()).decode().rstrip("=") for p in parts]
    token = ".".join([*made, "a-secret"])
    return {"access_token": token, "refresh_token": "no", "token_type": "Bearer",
            "expires_in": 3600, "expiration": now + 3600}  # fmt: skip


def ibm_instance() -> dict[str, Any]:
    """An instance that its account may use."""
    return {"crn": IBM_INSTANCE, "name": "ours", "service_plan_unique_id": "plan", "tags": [],
            "doc": {"extensions": {"backends": "any"}}}  # fmt: skip


def ibm_device(what: str) -> Any:
    """The snapshot of Guadalupe that ships with IBM's client: conf or props."""
    from importlib.resources import files

    folder = files("qiskit_ibm_runtime") / "fake_provider/backends/guadalupe"
    found = json.loads((folder / f"{what}_guadalupe.json").read_text())
    return found | {"backend_name": "ibm_guadalupe", "simulator": False}


def ibm_result(job: str) -> str:
    """The circuit of a job, run without noise, as its results come."""
    from qiskit.primitives import BitArray, DataBin, PrimitiveResult, SamplerPubResult
    from qiskit_aer import AerSimulator
    from qiskit_ibm_runtime.json import RuntimeDecoder, RuntimeEncoder

    params = json.loads(job, cls=RuntimeDecoder)["params"]
    circuit, shots = params["pubs"][0][0], params["pubs"][0][2]
    ran = AerSimulator(seed_simulator=6).run(circuit, shots=shots, memory=True).result()
    bits = BitArray.from_samples([f"0b{word}" for word in ran.get_memory()], circuit.num_clbits)
    made = PrimitiveResult([SamplerPubResult(DataBin(c=bits))], metadata={"version": 2})
    return json.dumps(made, cls=RuntimeEncoder)
