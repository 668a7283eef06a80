"""The Kubernetes manifests: valid for a current version, and consistent with image and rules."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from docs.generate import parsers
from tidegate.service.settings import Settings

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docker" / "kubernetes"
RULES = ROOT / "docker" / "prometheus" / "rules"
VERSION = "1.37"
NO_RESOURCES = ("kustomization.yaml", "adapter.yaml")
FILES = sorted(path for path in FOLDER.rglob("*.yaml") if path.name not in NO_RESOURCES)
RESOURCES: list[dict[str, Any]] = [
    resource for path in FILES for resource in yaml.safe_load_all(path.read_text(encoding="utf-8"))
]
KUSTOMIZATIONS = sorted(FOLDER.rglob("kustomization.yaml"))


def _one(kind: str, name: str = "tidegate") -> dict[str, Any]:
    [found] = [r for r in RESOURCES if r["kind"] == kind and r["metadata"]["name"] == name]
    return found


DEPLOYMENT = _one("Deployment")
POD = DEPLOYMENT["spec"]["template"]["spec"]
[CONTAINER] = POD["containers"]
ENVIRONMENT = {variable["name"]: variable["value"] for variable in CONTAINER["env"]}


def _of_kubernetes(resource: dict[str, Any]) -> bool:
    """Return whether it is a built-in resource; schemas of operators are not available."""
    group = str(resource["apiVersion"]).partition("/")[0]
    return group.endswith(".k8s.io") or "." not in group


@pytest.mark.parametrize(
    "resource", [r for r in RESOURCES if _of_kubernetes(r)], ids=lambda r: r["kind"]
)
def test_built_in_resources_conform_to_the_schema(resource: dict[str, Any]) -> None:
    kubernetes_validate.validate(resource, VERSION, strict=True)


@pytest.mark.parametrize("path", KUSTOMIZATIONS, ids=lambda path: path.parent.name)
def test_kustomizations_refer_to_existing_files(path: Path) -> None:
    kustomization = yaml.safe_load(path.read_text(encoding="utf-8"))

    for name in kustomization["resources"]:
        assert (path.parent / name).exists()
    for patch in kustomization.get("patches", []):
        assert patch["target"] == {"kind": "Deployment", "name": "tidegate"}
        assert all(step["path"].startswith("/spec/") for step in yaml.safe_load(patch["patch"]))


def test_the_rules_equal_prometheuss_files(tmp_path: Path) -> None:
    text = (FOLDER / "base" / "prometheusrule.yaml").read_text(encoding="utf-8")
    written = tmp_path / "written.yaml"
    subprocess.run([sys.executable, FOLDER / "rules.py", written], check=True, timeout=60)

    assert written.read_text(encoding="utf-8") == text
    specs = {
        resource["metadata"]["name"]: resource["spec"] for resource in yaml.safe_load_all(text)
    }
    assert specs == {
        f"tidegate-{path.stem}": yaml.safe_load(path.read_text(encoding="utf-8"))
        for path in RULES.glob("*.yml")
    }


def test_every_selector_selects_the_pods_and_no_others() -> None:
    """An empty selector would match a whole namespace, and kustomize sets none of these."""
    ours = {"app.kubernetes.io/name": "tidegate"}

    assert DEPLOYMENT["spec"]["template"]["metadata"]["labels"] == ours
    assert _one("Service")["spec"]["selector"] == ours
    for selector in (
        DEPLOYMENT["spec"]["selector"],
        _one("PodDisruptionBudget")["spec"]["selector"],
        _one("NetworkPolicy")["spec"]["podSelector"],
        _one("ServiceMonitor")["spec"]["selector"],
        *(spread["labelSelector"] for spread in POD["topologySpreadConstraints"]),
    ):
        assert selector == {"matchLabels": ours}


def test_the_scraped_job_is_the_one_that_the_rules_select() -> None:
    base = yaml.safe_load((FOLDER / "base" / "kustomization.yaml").read_text(encoding="utf-8"))
    label = _one("ServiceMonitor")["spec"]["jobLabel"]

    assert base["labels"][0]["pairs"][label] == "tidegate"


def test_the_grace_period_is_longer_than_the_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)

    settings = Settings.read()  # rejects unknown names

    assert settings.drain_delay_s + settings.drain_timeout_s < POD["terminationGracePeriodSeconds"]
    ready = CONTAINER["readinessProbe"]
    assert ready["periodSeconds"] * ready["failureThreshold"] < settings.drain_delay_s


def test_the_grace_period_is_longer_than_the_drain_with_kserve() -> None:
    [container] = _one("ServingRuntime")["spec"]["containers"]
    given = {variable["name"]: variable["value"] for variable in container["env"]}
    drain_s = int(given["TIDEGATE_DRAIN_DELAY_S"]) + int(given["TIDEGATE_DRAIN_TIMEOUT_S"])

    grace_s = _one("InferenceService")["spec"]["predictor"]["terminationGracePeriodSeconds"]
    assert drain_s < grace_s


def test_no_injected_variable_of_a_service_is_read_as_a_setting() -> None:
    """Otherwise TIDEGATE_PORT=tcp://… would be rejected, and the pod would never start."""
    assert POD["enableServiceLinks"] is False
    assert _one("InferenceService")["spec"]["predictor"]["enableServiceLinks"] is False


def test_pods_run_without_privileges_on_a_read_only_root() -> None:
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert POD["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert POD["automountServiceAccountToken"] is False
    for container in (CONTAINER, *_one("ServingRuntime")["spec"]["containers"]):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_probes_use_existing_routes() -> None:
    for container in (CONTAINER, *_one("ServingRuntime")["spec"]["containers"]):
        assert container["startupProbe"]["httpGet"]["path"] == "/readyz"
        assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
        assert container["livenessProbe"]["httpGet"]["path"] == "/livez"


def test_the_adapter_provides_the_autoscalers_metrics() -> None:
    text = (FOLDER / "overlays" / "autoscale" / "adapter.yaml").read_text(encoding="utf-8")
    served = {
        rule.get("name", {}).get("as") or rule["seriesQuery"].partition("{")[0]
        for rule in yaml.safe_load(text)["rules"]
    }
    metrics = _one("HorizontalPodAutoscaler")["spec"]["metrics"]

    assert {metric["pods"]["metric"]["name"] for metric in metrics} == served


def test_the_init_container_that_pulls_is_valid_and_has_no_privileges() -> None:
    path = FOLDER / "overlays" / "pull" / "kustomization.yaml"
    [patch] = yaml.safe_load(path.read_text("utf-8"))["patches"]
    steps = {step["path"]: step["value"] for step in yaml.safe_load(patch["patch"])}
    changed = copy.deepcopy(DEPLOYMENT)
    pod = changed["spec"]["template"]["spec"]
    pod["initContainers"] = steps["/spec/template/spec/initContainers"]
    for name in ("env", "volumeMounts"):
        pod["containers"][0][name].append(steps[f"/spec/template/spec/containers/0/{name}/-"])
    pod["volumes"].append(steps["/spec/template/spec/volumes/-"])

    kubernetes_validate.validate(changed, VERSION, strict=True)
    [pulling] = pod["initContainers"]
    assert pulling["image"] == CONTAINER["image"]
    assert pulling["securityContext"] == CONTAINER["securityContext"]
    assert {mount["name"] for mount in pulling["volumeMounts"]} <= {
        v["name"] for v in pod["volumes"]
    }
    parsers()["tidegate bundle pull"].parse_args(pulling["command"][3:])
    assert pulling["command"][:3] == ["tidegate", "bundle", "pull"]
    assert steps["/spec/template/spec/containers/0/volumeMounts/-"]["readOnly"] is True
