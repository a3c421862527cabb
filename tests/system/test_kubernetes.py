"""The manifests in deploy/kubernetes, as far as they can be judged without a cluster."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from core.scaling.server import PROMETHEUS_METRIC
from skills.runtime.serving import LIVE
from tests.servers import ROOT

MANIFESTS = ROOT / "deploy" / "kubernetes"
# Those that get updates: a new Kubernetes version comes every four months, and three of them are maintained.
VERSIONS = ("1.35", "1.36", "1.37")
BUNDLES = ("base", "hpa", "keda", "own", "documented")
# One that users may make; the other one is what docs/cluster.md says.
OWN = """
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../hpa]
components: [../model-image]
"""
# The fields of KEDA's ScaledObject (keda.sh/v1alpha1) that are used here, by its documentation.
SCALED_OBJECT = {
    "type": "object",
    "additionalProperties": False,
    "required": ["scaleTargetRef", "triggers"],
    "properties": {
        "scaleTargetRef": {
            "type": "object",
            "additionalProperties": False,
            "required": ["name"],
            "properties": {name: {"type": "string"} for name in ("apiVersion", "kind", "name")},
        },
        **{
            name: {"type": "integer", "minimum": 0}
            for name in ("pollingInterval", "cooldownPeriod", "minReplicaCount", "maxReplicaCount")
        },
        "advanced": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "horizontalPodAutoscalerConfig": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {"behavior": {"type": "object"}},
                }
            },
        },
        "triggers": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["type", "metadata"],
                "properties": {
                    "type": {"const": "external-push"},
                    "metricType": {"enum": ["AverageValue", "Value"]},
                    "metadata": {
                        "type": "object",
                        "required": ["scalerAddress"],
                        "additionalProperties": {"type": "string"},
                    },
                },
            },
        },
    },
}

pytestmark = pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl, which builds the manifests")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the manifests, where bundles can be put together as users do."""
    folder = tmp_path_factory.mktemp("kubernetes") / "kubernetes"
    shutil.copytree(MANIFESTS, folder)
    documented = re.search(r"```yaml\n(.*?)```", (ROOT / "docs" / "cluster.md").read_text(), re.DOTALL)
    assert documented is not None
    for name, text in (("own", OWN), ("documented", documented[1])):
        (folder / name).mkdir()
        (folder / name / "kustomization.yaml").write_text(text)
    return folder


@functools.cache
def built(folder: Path) -> tuple[dict[str, Any], ...]:
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return tuple(yaml.safe_load_all(done.stdout))


def only(resources: tuple[dict[str, Any], ...], kind: str, name: str = "skill-draft") -> dict[str, Any]:
    (found,) = (each for each in resources if (each["kind"], each["metadata"]["name"]) == (kind, name))
    return found


def pods(resources: tuple[dict[str, Any], ...]) -> list[dict[str, Any]]:
    return [each["spec"]["template"]["spec"] for each in resources if each["kind"] == "Deployment"]


@pytest.mark.parametrize("name", BUNDLES)
def test_every_field_exists_in_the_versions_that_are_maintained(copy: Path, name: str) -> None:
    resources = built(copy / name)
    for resource in resources:
        if resource["kind"] == "ScaledObject":
            jsonschema.validate(resource["spec"], SCALED_OBJECT)
            continue
        for version in VERSIONS:
            kubernetes_validate.validate(resource, version, strict=True)
    misspelt = {**only(resources, "Deployment"), "spce": {}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(misspelt, VERSIONS[0], strict=True)


def test_the_autoscaler_and_the_scaler_have_the_same_limits(copy: Path) -> None:
    for name, kind, least, most in (
        ("hpa", "HorizontalPodAutoscaler", "minReplicas", "maxReplicas"),
        ("keda", "ScaledObject", "minReplicaCount", "maxReplicaCount"),
    ):
        resources = built(copy / name)
        limits = only(resources, kind)["spec"]
        scaler = only(resources, "Deployment", "sarai-scaler")["spec"]["template"]["spec"]["containers"][0]
        assert {f"--min={limits[least]}", f"--max={limits[most]}"} <= set(scaler["args"])
        assert "replicas" not in only(resources, "Deployment")["spec"], "an apply would set the number back"
    hpa = only(built(copy / "hpa"), "HorizontalPodAutoscaler")["spec"]
    scaled = only(built(copy / "keda"), "ScaledObject")["spec"]
    assert hpa["metrics"][0]["external"]["metric"]["name"] == PROMETHEUS_METRIC
    assert hpa["behavior"] == scaled["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert {rules["tolerance"] for rules in hpa["behavior"].values()} == {"0"}, "0.1 swallows 10 to 11"


def test_a_replica_that_goes_has_the_time_that_its_calls_need(copy: Path) -> None:
    pod = only(built(copy / "base"), "Deployment")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    grace_s = next(float(each["value"]) for each in container["env"] if each["name"] == "SKILL_DRAFT_GRACE_S")
    sleep_s = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] >= sleep_s + grace_s + 5
    assert container["livenessProbe"]["grpc"]["service"] == LIVE, "an engine that is replaced is no reason to kill it"


def test_a_model_and_a_registry_are_brought_by_ones_own_bundle(copy: Path) -> None:
    for name, kind, image in (
        ("own", "image", "sarai-skill-draft:v"),
        ("documented", "persistentVolumeClaim", "registry.example/sarai-skill-draft:v"),
    ):
        pod = only(built(copy / name), "Deployment")["spec"]["template"]["spec"]
        assert [kind in volume for volume in pod["volumes"]] == [False, True]
        assert pod["containers"][0]["volumeMounts"][1] == {"name": "models", "mountPath": "/models", "readOnly": True}
        assert pod["containers"][0]["image"].startswith(image)


def test_pods_fit_the_strictest_security_standard(copy: Path) -> None:
    resources = built(copy / "keda")
    labels = only(resources, "Namespace", "sarai")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    assert len(pods(resources)) == 2
    for pod in pods(resources):
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] > 10_000
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        assert {key for volume in pod.get("volumes", []) for key in volume} <= {"name", "emptyDir"}
        for container in pod["containers"]:
            own = container["securityContext"]
            assert own == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
    policies = {each["metadata"]["name"]: each["spec"] for each in resources if each["kind"] == "NetworkPolicy"}
    assert policies.keys() == {"skill-draft", "sarai-scaler"}
    assert all(each["policyTypes"] == ["Ingress", "Egress"] for each in policies.values())
