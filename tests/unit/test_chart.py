"""The Helm chart: its values fit its schema and the fleet, and what it makes is what Kubernetes takes."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tasks import names
from workers.pools import BY_NAME
from workers.settings import FleetSettings
from workers.supervisor import PATIENCE

CHART = Path(__file__).parents[2] / "deploy" / "helm" / "dripfleet"
TEMPLATES = sorted((CHART / "templates").iterdir())
DRAIN = FleetSettings.model_fields["drain_wait"].default
SECRETS = {
    name: "x" for name in (
        "DRIPFLEET_DATABASE_URL", "DRIPFLEET_REDIS_URL", "DRIPFLEET_SMTP_URL",
        "DRIPFLEET_SECRET_ADDRESS", "DRIPFLEET_SECRET_MESSAGE_ID", "DRIPFLEET_SECRET_TOKEN",
        "DRIPFLEET_SECRET_FLOWER",
    )
}  # fmt: skip
EVERYTHING = {
    "secret": {"values": SECRETS},
    "flower": {"enabled": True},
    "keda": {"enabled": True},
    "metrics": {"enabled": True, "podMonitor": True},
    "edge": {"enabled": True},
    "config": {
        "DRIPFLEET_WINDOW": 2000000,
        "DRIPFLEET_DOT_WITHIN": 0.5,
        "DRIPFLEET_EDGE_URL": "https://mail.example.com",
    },
}
RENDER = """
import json, sys, helm_python as helm
helm.disable_logging()
with helm.Chart.load(sys.argv[1]) as chart:
    given = [json.loads(line) for line in sys.stdin]
    def of(values):
        try:
            return chart.render(values, name="mail", namespace="prod")
        except helm.HelmError as error:
            return str(error)
    json.dump([of(values) for values in given], sys.stdout)
"""
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "Set secret.existingSecret, or secret.values.DRIPFLEET_DATABASE_URL"),
    ({"secret": {"existingSecret": "s"}, "pools": {"sned": {"replicas": 1}}}, "sned"),
    ({"secret": {"existingSecret": "s"}, "config": {"DRIPFLEET_DRAIN_WAIT": 5}}, "DRAIN_WAIT"),
    (
        {"secret": {"existingSecret": "s"}, "edge": {"enabled": True}},
        "Set config.DRIPFLEET_EDGE_URL",
    ),
    ({"secret": {"existingSecret": "s"}, "config": {"DRIPFLEET_SECRET_TOKEN": "t"}}, "SECRET"),
]


def yaml(text: str) -> list[Any]:
    return [document for document in YAML(typ="safe").load_all(text) if document is not None]


@cache
def values() -> dict[str, Any]:
    (document,) = yaml((CHART / "values.yaml").read_text())
    assert isinstance(document, dict)
    return document


@cache
def answers() -> list[Any]:
    """Helm's own engine on all the values of these tests, once, in a process of its own."""
    if importlib.util.find_spec("helm_python") is None:
        pytest.skip("helm-python-sdk is not installed: the chart is read, not rendered")
    lines = [EVERYTHING, {"secret": {"existingSecret": "kept"}}, *(given for given, _ in REFUSED)]
    done = subprocess.run(
        [sys.executable, "-c", RENDER, str(CHART)], input="\n".join(map(json.dumps, lines)),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: list[Any] = json.loads(done.stdout)
    return found


def objects(at: int) -> list[dict[str, Any]]:
    rendered = answers()[at]
    assert isinstance(rendered, dict), rendered
    return [o for name, text in rendered.items() if name.endswith(".yaml") for o in yaml(text)]


def of_kind(found: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {o["metadata"]["name"]: o for o in found if o["kind"] == kind}


def test_values_and_schema_name_the_same_things() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())["properties"]
    assert set(schema) - {"global", "nameOverride", "fullnameOverride"} == set(values())
    for key, value in values().items():
        if inside := schema[key].get("properties"):
            assert set(value) <= set(inside), key
    assert set(schema["pools"]["properties"]) == set(schema["pools"]["required"]) == set(BY_NAME)
    assert set(values()["pools"]) == set(BY_NAME)


def test_the_chart_gives_a_drain_its_time() -> None:
    text = (CHART / "templates/send.yaml").read_text()
    added = re.search(r"PeriodSeconds: {{ add \(int \.Values\.drainWait\) (\d+) }}", text)
    assert added is not None and float(added[1]) >= PATIENCE
    assert values()["drainWait"] == DRAIN
    assert "volumeClaimTemplates" in text


def test_the_places_of_the_metrics_are_those_of_the_pools() -> None:
    text = (CHART / "templates/_helpers.tpl").read_text()
    (line,) = re.findall(r"\$place := dict (.*) -", text)
    found = re.findall(r'"(\w+)" (\d)', line)
    assert {pool: int(place) for pool, place in found} == {p: i for i, p in enumerate(names.POOLS)}


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_each_block_of_a_template_ends(path: Path) -> None:
    text = re.sub(r"{{-?\s*/\*.*?\*/\s*-?}}", "", path.read_text(), flags=re.DOTALL)
    words = re.findall(r"{{-?\s*(\w+)", text)
    opened = sum(word in ("if", "range", "with", "define") for word in words)
    assert opened == words.count("end")
    assert text.count("{{") == text.count("}}")


def test_every_pod_is_nobodys_and_writes_nowhere_but_in_its_volumes() -> None:
    found = objects(0)
    kinds = ("Deployment", "StatefulSet", "Job")
    pods = {n: o["spec"]["template"]["spec"] for k in kinds for n, o in of_kind(found, k).items()}
    processes = {*BY_NAME, "beat", "flower", "metrics", "migrate", "edge"}
    assert set(pods) == {f"mail-dripfleet-{name}" for name in processes}
    for pod in pods.values():
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        (container,) = pod["containers"]
        assert container["workingDir"] == "/var/lib/dripfleet"
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"]["memory"]
    probed = {n for n, pod in pods.items() if "livenessProbe" in pod["containers"][0]}
    assert set(pods) - probed == {"mail-dripfleet-migrate", "mail-dripfleet-metrics"}
    send = of_kind(found, "StatefulSet")["mail-dripfleet-send"]["spec"]
    assert send["template"]["spec"]["terminationGracePeriodSeconds"] >= DRAIN + PATIENCE
    assert send["volumeClaimTemplates"][0]["metadata"]["name"] == "journal"
    mounts = {m["name"]: m["mountPath"] for m in send["template"]["spec"]["containers"][0]["volumeMounts"]}  # fmt: skip
    settings = of_kind(found, "ConfigMap")["mail-dripfleet"]["data"]
    assert mounts["journal"] == settings["DRIPFLEET_JOURNAL_DIR"]
    assert settings["DRIPFLEET_WINDOW"] == "2000000" and settings["DRIPFLEET_DOT_WITHIN"] == "0.5"


def test_the_schema_comes_before_everything_else() -> None:
    job = of_kind(objects(0), "Job")["mail-dripfleet-migrate"]
    hook = job["metadata"]["annotations"]
    assert hook["helm.sh/hook"] == "pre-install,pre-upgrade"
    (container,) = job["spec"]["template"]["spec"]["containers"]
    named = [source[k]["name"] for source in container["envFrom"] for k in source]
    for kind, name in zip(("ConfigMap", "Secret"), named, strict=True):
        copy = of_kind(objects(0), kind)[name]["metadata"]["annotations"]
        assert copy["helm.sh/hook"] == hook["helm.sh/hook"]
        assert int(copy["helm.sh/hook-weight"]) < int(hook["helm.sh/hook-weight"])


def test_a_secret_of_yours_is_used_and_none_is_made() -> None:
    found = objects(1)
    assert not of_kind(found, "Secret") and not of_kind(found, "ScaledObject")
    workloads = [o for o in found if o["kind"] in ("Deployment", "StatefulSet", "Job")]
    for thing in workloads:
        (container,) = thing["spec"]["template"]["spec"]["containers"]
        assert {"secretRef": {"name": "kept"}} in container["envFrom"]


def test_a_scaled_pool_leaves_its_number_to_keda() -> None:
    found = objects(0)
    scaled = of_kind(found, "ScaledObject")
    assert set(scaled) == {"mail-dripfleet-send", "mail-dripfleet-sequence"}
    for name, thing in scaled.items():
        target = of_kind(found, thing["spec"]["scaleTargetRef"]["kind"])[name]
        assert "replicas" not in target["spec"]
        (trigger,) = thing["spec"]["triggers"]
        assert trigger["metadata"]["connectionFromEnv"] in SECRETS
        # Bare, the clock is no index condition, and a look walks every future row.
        assert "<= (SELECT clock_timestamp())" in trigger["metadata"]["query"]


@pytest.mark.parametrize("at", range(len(REFUSED)))
def test_what_cannot_work_is_refused_by_name(at: int) -> None:
    said = answers()[2 + at]
    assert isinstance(said, str) and REFUSED[at][1] in said


@pytest.mark.parametrize("at", [0, 1])
def test_kubernetes_knows_every_field(at: int) -> None:
    found = objects(at)
    if importlib.util.find_spec("kubernetes_validate") is None:
        pytest.skip("kubernetes-validate is not installed: fields are not checked")
    from kubernetes_validate import validate  # type: ignore[import-not-found,unused-ignore]

    for thing in found:
        if "keda.sh" not in thing["apiVersion"] and "coreos.com" not in thing["apiVersion"]:
            validate(thing, "1.30", strict=True)
