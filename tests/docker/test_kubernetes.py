"""The Kubernetes manifests: valid for a current version, and consistent with image and rules."""

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from docs.tables.commands import parsers
from tests.server import DEMO_BUNDLE
from tidegate.service.serving.serving_file import Place, find
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
    [found] = [r for r in RESOURCES if r["kind"] == kind and r["metadata"].get("name") == name]
    return found


DEPLOYMENT = _one("Deployment")
POD = DEPLOYMENT["spec"]["template"]["spec"]
[CONTAINER] = POD["containers"]
ENVIRONMENT = {variable["name"]: variable["value"] for variable in CONTAINER["env"]}


def _patched(kind: str, folder: str) -> dict[str, Any]:
    """Return a resource after the patches of a kustomization and of those below it (RFC 6902)."""
    path = FOLDER / folder / "kustomization.yaml"
    kustomization = yaml.safe_load(path.read_text(encoding="utf-8"))
    below = [path.parent / name for name in kustomization["resources"] if name.startswith("..")]
    changed = copy.deepcopy(_one(kind))
    if below:
        changed = _patched(kind, str(below[0].resolve().relative_to(FOLDER)))
    for patch in kustomization.get("patches", []):
        if patch["target"]["kind"] == kind:
            for step in yaml.safe_load(patch["patch"]):
                _apply(changed, step)
    return changed


def _apply(resource: dict[str, Any], step: dict[str, Any]) -> None:
    *parents, last = [part.replace("~1", "/") for part in step["path"].split("/")[1:]]
    place: Any = resource
    for part in parents:
        place = place[int(part) if isinstance(place, list) else part]
    key = int(last) if isinstance(place, list) and last != "-" else last
    if step["op"] == "remove":
        del place[key]
    elif last == "-":
        place.append(step["value"])
    else:
        assert step["op"] == "add" or isinstance(place, list) or key in place
        place[key] = step["value"]


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
        assert _one(patch["target"]["kind"], patch["target"]["name"])


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
    changed = _patched("Deployment", "overlays/pull")
    pod = changed["spec"]["template"]["spec"]

    kubernetes_validate.validate(changed, VERSION, strict=True)
    [pulling] = pod["initContainers"]
    _assert_pulls(pulling, pod)
    assert {"name": "bundles", "mountPath": "/bundles", "readOnly": True} in pod["containers"][0][
        "volumeMounts"
    ]


def _assert_pulls(container: dict[str, Any], pod: dict[str, Any]) -> None:
    assert container["image"] == CONTAINER["image"]
    assert container["securityContext"] == CONTAINER["securityContext"]
    assert {m["name"] for m in container["volumeMounts"]} <= {v["name"] for v in pod["volumes"]}
    assert container["command"][:3] == ["tidegate", "bundle", "pull"]
    parsers()["tidegate bundle pull"].parse_args(container["command"][3:])


def test_the_job_that_pulls_is_not_restricted_like_the_service() -> None:
    pod = _job("tidegate-pull-")["spec"]["template"]
    service = _patched("Deployment", "overlays/models")["spec"]["template"]["spec"]
    [pulling] = pod["spec"]["containers"]

    _assert_pulls(pulling, pod["spec"])
    assert pod["metadata"]["labels"] != DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    assert pod["spec"]["securityContext"] == POD["securityContext"]
    claim = {"name": "models", "persistentVolumeClaim": {"claimName": "tidegate-models"}}
    assert claim in pod["spec"]["volumes"]
    assert claim in service["volumes"]
    assert {"name": "models", "mountPath": pulling["command"][-1]} in pulling["volumeMounts"]


def _job(generated_name: str) -> dict[str, Any]:
    jobs = [resource for resource in RESOURCES if resource["kind"] == "Job"]
    [job] = [j for j in jobs if j["metadata"]["generateName"] == generated_name]
    return job


def test_the_job_that_classifies_shares_out_the_images_and_resumes() -> None:
    spec = _job("tidegate-classify-")["spec"]
    [classifying] = spec["template"]["spec"]["containers"]
    [script] = classifying["args"]
    stand_in = "tidegate() { printf '%s\\n' \"$@\"; }; "
    done = subprocess.run(
        [*classifying["command"], stand_in + script.replace("exec ", "")],
        env={"JOB_COMPLETION_INDEX": "15"},
        capture_output=True,
        text=True,
        check=True,
    )

    words = done.stdout.splitlines()
    arguments = parsers()["tidegate classify"].parse_args(words[1:])

    assert arguments.shard == (spec["completions"], spec["completions"])  # the last share
    assert arguments.resume
    mounts = {mount["mountPath"] for mount in classifying["volumeMounts"]}
    assert {*arguments.sources, str(arguments.out.parent)} <= mounts
    assert spec["template"]["spec"]["securityContext"] == POD["securityContext"]


def _settings(container: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Settings:
    for variable in container["env"]:
        monkeypatch.setenv(variable["name"], variable["value"])
    return Settings.read()


def test_several_models_are_served_from_a_volume_and_a_config_map(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    changed = _patched("Deployment", "overlays/models")
    pod = changed["spec"]["template"]["spec"]
    [container] = pod["containers"]

    kubernetes_validate.validate(changed, VERSION, strict=True)
    monkeypatch.setenv("TIDEGATE_BUNDLE", "/bundles/efficientnet-lite0/1")  # of the image
    settings = _settings(container, monkeypatch)
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert mounts[str(settings.models)] == {
        "name": "models",
        "mountPath": "/models",
        "readOnly": True,
    }
    assert settings.serving is not None
    serving = mounts[str(settings.serving.parent)]
    assert "subPath" not in serving  # it would not follow the ConfigMap
    [volume] = [v for v in pod["volumes"] if v["name"] == serving["name"]]
    [(name, text)] = _one("ConfigMap", volume["configMap"]["name"])["data"].items()
    assert name == settings.serving.name
    _assert_serves(text, tmp_path)


def _assert_serves(text: str, folder: Path) -> None:
    """Check a serving file against a folder with the demo bundle."""
    (folder / "efficientnet-lite0").mkdir()
    (folder / "efficientnet-lite0/1").symlink_to(DEMO_BUNDLE)
    (folder / "serving.toml").write_text(text)
    find(Place(folder, None)).plan()


def test_with_a_writable_volume_the_serving_file_is_on_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changed = _patched("Deployment", "overlays/models-writable")
    pod = changed["spec"]["template"]["spec"]
    [container] = pod["containers"]

    kubernetes_validate.validate(changed, VERSION, strict=True)
    settings = _settings(container, monkeypatch)
    assert (settings.models, settings.serving) == (Path("/models"), None)
    assert {"name": "models", "mountPath": "/models"} in container["volumeMounts"]
    used = {mount["name"] for mount in container["volumeMounts"]}
    assert used == {volume["name"] for volume in pod["volumes"]}


def test_kserve_mounts_a_writable_folder_of_models(monkeypatch: pytest.MonkeyPatch) -> None:
    [container] = _patched("ServingRuntime", "kserve-models")["spec"]["containers"]
    service = _patched("InferenceService", "kserve-models")

    monkeypatch.setenv("TIDEGATE_BUNDLE", "/bundles/efficientnet-lite0/1")  # of the image
    assert _settings(container, monkeypatch).models == Path("/mnt/models")
    assert service["spec"]["predictor"]["model"]["storageUri"] == "pvc://tidegate-models"
    assert service["metadata"]["annotations"]["storage.kserve.io/readonly"] == "false"


def test_with_keys_probes_stay_and_operators_have_a_port_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pod = _patched("Deployment", "overlays/keys")["spec"]["template"]["spec"]
    [container] = pod["containers"]
    for variable in container["env"]:
        monkeypatch.setenv(variable["name"], variable["value"])
    settings = Settings.read()

    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": settings.port, "admin": settings.admin_port}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert f"{settings.keys.parent if settings.keys else None}" in mounts
    service = _patched("Service", "overlays/keys")["spec"]["ports"]
    assert {port["targetPort"] for port in service} == ports.keys()
    [rule] = _patched("NetworkPolicy", "overlays/keys")["spec"]["ingress"]
    assert {port["port"] for port in rule["ports"]} == ports.keys()
    [endpoint] = _patched("ServiceMonitor", "overlays/keys")["spec"]["endpoints"]
    assert endpoint["port"] == "admin"
    assert endpoint["authorization"]["credentials"]["key"]
