"""The image and the composed stack, checked as text: no Docker engine is needed."""

import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import compose_spec
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.http_server import QuietHandler, serving
from tidegate.service.settings import Settings

ROOT = Path(__file__).parents[2]
PATIENCE_S = 150
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
PROMETHEUS = yaml.safe_load((ROOT / "docker/prometheus/prometheus.yml").read_text(encoding="utf-8"))
services = pytest.mark.parametrize("name", SERVICES)


def _instructions() -> list[tuple[str, str]]:
    """Return the Dockerfile as (INSTRUCTION, arguments), without comments, with lines joined."""
    text = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", " ", lines).splitlines()
    return [(parts[0], parts[2]) for line in joined if (parts := line.partition(" "))[0]]


def _stage(name: str | None = None) -> list[tuple[str, str]]:
    """Return the instructions of a stage, or of the last one."""
    instructions = _instructions()
    starts = [place for place, (word, _) in enumerate(instructions) if word == "FROM"]
    bounds = zip(starts, [*starts[1:], len(instructions)], strict=True)
    stages = [instructions[start:stop] for start, stop in bounds]
    named = [stage for stage in stages if name and stage[0][1].endswith(f" AS {name}")]
    return named[0] if named else stages[-1]


def _final_stage() -> list[tuple[str, str]]:
    return _stage()


def _environment() -> dict[str, str]:
    """Return the ENV of the final stage, without the shell's quoting."""
    pairs = [pair for name, rest in _final_stage() if name == "ENV" for pair in shlex.split(rest)]
    return dict(pair.split("=", 1) for pair in pairs)


def _seconds(duration: str) -> float:
    return float(duration.removesuffix("s"))


def test_it_conforms_to_the_compose_specification() -> None:
    parsed = compose_spec.PyCompose.from_json(json.dumps(COMPOSE))

    parsed.validate()  # raises for unknown keys, wrong types and dangling references
    assert set(parsed.service_names()) == SERVICES.keys()


def test_with_the_second_file_a_folder_of_models_is_served(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Compose adds the environment and the volumes of the second file to those of the first."""
    text = (ROOT / "docker-compose.models.yml").read_text(encoding="utf-8")
    more: dict[str, Any] = yaml.safe_load(re.sub(r"\$\{MODELS:\?[^}]+\}", "/srv/bundles", text))
    compose_spec.PyCompose.from_json(json.dumps({"services": more["services"]}))
    assert more["services"].keys() == {"tidegate", "tidegate-gpu"}
    for name, service in more["services"].items():
        given = {**_environment(), **SERVICES[name]["environment"], **service["environment"]}
        for variable, value in given.items():
            if variable.startswith("TIDEGATE_"):
                monkeypatch.setenv(variable, value)

        [mount] = service["volumes"]
        # Writable, for the judge's steps.
        assert mount == f"/srv/bundles:{Settings.read().models}"


def test_with_the_file_of_keys_the_service_and_prometheus_have_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    more = yaml.safe_load((ROOT / "docker-compose.keys.yml").read_text(encoding="utf-8"))
    parts = {part: more[part] for part in ("services", "secrets")}
    compose_spec.PyCompose.from_json(json.dumps(parts))
    service = more["services"]["tidegate"]
    assert service == more["services"]["tidegate-gpu"]
    for variable, value in service["environment"].items():
        monkeypatch.setenv(variable, value)
    settings = Settings.read()
    assert [f"/run/secrets/{secret}" for secret in service["secrets"]] == [str(settings.keys)]

    text = (ROOT / "docker/prometheus/prometheus.keys.yml").read_text(encoding="utf-8")
    scraping = yaml.safe_load(text)
    [job] = scraping["scrape_configs"]
    assert job["static_configs"] == [{"targets": [f"tidegate:{settings.admin_port}"]}]
    secret = job.pop("authorization")["credentials_file"]
    assert secret == f"/run/secrets/{more['services']['prometheus']['secrets'][0]}"
    job["static_configs"] = PROMETHEUS["scrape_configs"][0]["static_configs"]
    assert scraping == PROMETHEUS


def test_with_the_file_for_traces_the_service_exports_them_to_a_collector() -> None:
    text = (ROOT / "docker-compose.traces.yml").read_text(encoding="utf-8")
    more: dict[str, Any] = yaml.safe_load(text.replace("${TRACES_SHARE:-0.01}", "0.01"))["services"]
    compose_spec.PyCompose.from_json(json.dumps({"services": more}))
    collector = more.pop("jaeger")

    assert more.keys() == {"tidegate", "tidegate-gpu"}
    for service in more.values():
        assert service["environment"]["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://jaeger:4318"
        assert service["environment"]["OTEL_TRACES_SAMPLER"] == "parentbased_traceidratio"
    assert collector["read_only"]
    assert collector["cap_drop"] == ["ALL"]
    assert all(port.startswith("127.0.0.1:") for port in collector["ports"])


def test_only_the_service_and_grafana_publish_a_port_and_only_on_loopback() -> None:
    ports = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}

    assert ports.keys() == {"tidegate", "tidegate-gpu", "grafana"}
    assert all(port.startswith("127.0.0.1:") for [port] in ports.values())


def test_one_profile_is_the_default_and_each_has_one_service_with_the_scraped_name() -> None:
    chosen = (ROOT / ".env").read_text(encoding="utf-8").splitlines()[-1]
    profiles = {name: s["profiles"] for name, s in SERVICES.items() if "profiles" in s}

    assert chosen == "COMPOSE_PROFILES=cpu"
    assert profiles == {"tidegate": ["cpu"], "tidegate-gpu": ["gpu"]}
    assert SERVICES["tidegate-gpu"]["networks"]["default"]["aliases"] == ["tidegate"]


def test_there_is_no_default_password() -> None:
    grafana = SERVICES["grafana"]["environment"]

    assert grafana["GF_SECURITY_DISABLE_INITIAL_ADMIN_CREATION"] == "true"
    assert grafana["GF_AUTH_ANONYMOUS_ORG_ROLE"] == "Viewer"
    assert not any(
        "PASSWORD" in name for s in SERVICES.values() for name in s.get("environment", {})
    )


def test_alertmanager_sends_drift_to_the_receiver_in_compose() -> None:
    text = (ROOT / "docker/alertmanager/alertmanager.yml").read_text(encoding="utf-8")
    [receiver] = [r for r in yaml.safe_load(text)["receivers"] if r["name"] == "retrain"]

    assert receiver["webhook_configs"][0]["url"] == "http://retrain:9000/alerts"
    assert "retrain" in SERVICES
    assert ("EXPOSE", "9000") in _stage("retrain")


def test_alertmanager_reads_the_token_that_the_receiver_creates() -> None:
    text = (ROOT / "docker/alertmanager/alertmanager.yml").read_text(encoding="utf-8")
    [receiver] = [r for r in yaml.safe_load(text)["receivers"] if r["name"] == "retrain"]
    [hook] = receiver["webhook_configs"]
    named = hook["http_config"]["authorization"]["credentials_file"]
    [start] = [json.loads(rest) for name, rest in _stage("retrain") if name == "ENTRYPOINT"]
    [user] = [rest for name, rest in _stage("retrain") if name == "USER"]
    folder = str(Path(named).parent)

    assert start[start.index("--token-file") + 1] == named
    assert "--make-token" in start
    assert f"retrain-token:{folder}" in SERVICES["retrain"]["volumes"]
    assert f"retrain-token:{folder}:ro" in SERVICES["alertmanager"]["volumes"]
    assert ("COPY", f"--from=build --chown={user} /token {folder}") in _stage("retrain")
    assert SERVICES["alertmanager"]["group_add"] == [user.split(":")[1]]
    assert SERVICES["alertmanager"]["depends_on"] == {"retrain": {"condition": "service_healthy"}}


@services
def test_images_are_built_here_or_pinned_to_a_version(name: str) -> None:
    service = SERVICES[name]

    assert "build" in service or re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+", service["image"])


@services
def test_containers_have_no_privileges_and_bounded_resources(name: str) -> None:
    service = SERVICES[name]

    assert service["read_only"] is True
    assert service["init"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert "privileged" not in service


@services
def test_mounted_files_exist_and_are_read_only(name: str) -> None:
    mounts = [volume.split(":") for volume in SERVICES[name].get("volumes", [])]

    for source, _, *mode in mounts:
        if source.startswith("."):
            assert (ROOT / source).exists()
            assert mode == ["ro"]
        else:
            assert source in COMPOSE["volumes"]


@services
def test_every_dependency_has_a_health_check(name: str) -> None:
    for other, condition in SERVICES[name].get("depends_on", {}).items():
        assert condition == {"condition": "service_healthy"}
        in_image = "build" in SERVICES[other] and any(n == "HEALTHCHECK" for n, _ in _final_stage())
        assert in_image or "healthcheck" in SERVICES[other]


def test_a_container_is_not_killed_while_it_drains() -> None:
    service = SERVICES["tidegate"]
    environment = service["environment"]

    drain_s = sum(float(environment[f"TIDEGATE_DRAIN_{n}_S"]) for n in ("DELAY", "TIMEOUT"))

    assert _seconds(service["stop_grace_period"]) > drain_s


def test_the_service_accepts_the_environment_that_it_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = {**_environment(), **SERVICES["tidegate"]["environment"]}
    for name, value in given.items():
        if name.startswith("TIDEGATE_"):
            monkeypatch.setenv(name, value)

    settings = Settings.read()  # rejects unknown names

    assert settings.host == "0.0.0.0"  # noqa: S104  # compose publishes it on loopback only
    assert settings.drain_delay_s + settings.drain_timeout_s == 25


def test_prometheus_scrapes_the_service_on_the_port_that_the_image_exposes() -> None:
    [job] = PROMETHEUS["scrape_configs"]
    [target] = job["static_configs"][0]["targets"]
    host, port = target.split(":")

    assert job["job_name"] == "tidegate"  # the rules select on it
    assert host in SERVICES
    assert ("EXPOSE", port) in _final_stage()
    assert str(Settings.model_fields["port"].default) == port
    assert SERVICES[host]["ports"] == [f"127.0.0.1:8000:{port}"]


def test_prometheus_finds_its_rules_where_they_are_mounted() -> None:
    mounts = dict(v.split(":")[1::-1] for v in SERVICES["prometheus"]["volumes"])

    [pattern] = PROMETHEUS["rule_files"]
    rules = ROOT / mounts[f"/etc/prometheus/{Path(pattern).parent}"]

    assert list(rules.glob(Path(pattern).name))


def test_all_stages_share_one_pinned_base() -> None:
    bases = [rest.split()[0] for name, rest in _instructions() if name == "FROM"]

    assert bases == ["python:3.11-slim-bookworm"] * 3  # the environments link to its Python


def _pinned() -> dict[str, str]:
    lines = (ROOT / "docker" / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_every_declared_dependency_is_pinned_within_its_range() -> None:
    pinned = _pinned()
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]

    extras = [
        text
        for name in ("models", "remote", "oci", "otel", "signing", "gpu", "openvino")
        for text in project["optional-dependencies"][name]
    ]
    declared = [
        requirement
        for text in [*project["dependencies"], *extras]
        if (requirement := Requirement(text)).marker is None or requirement.marker.evaluate()
    ]
    assert declared
    for requirement in declared:
        assert pinned[canonicalize_name(requirement.name)] in requirement.specifier


def test_the_image_has_openvino_only_on_request() -> None:
    """The build's commands run with a `pip` that only prints what it is asked for."""
    commands = [rest for name, rest in _stage("build") if name == "RUN" and "pip" in rest]
    [resolve, install] = [each for each in commands if "$OPENVINO" in each]
    assert ("ARG", "OPENVINO=0") in _stage("build")
    assert SERVICES["tidegate"]["build"]["args"]["OPENVINO"] == "${OPENVINO:-0}"

    for command in (resolve, install.partition(" && /opt/")[0].partition(" && ")[2]):
        asked = {
            wanted: subprocess.run(
                ["sh", "-ec", f'pip() {{ echo "$@"; }}\n{command}'],
                env={"PATH": os.defpath, "OPENVINO": wanted},
                capture_output=True,
                text=True,
                check=True,
                timeout=PATIENCE_S,
            ).stdout.splitlines()
            for wanted in ("0", "1")
        }

        assert len(asked["0"]) == 1
        assert "openvino" not in asked["0"][0]
        assert asked["1"][:1] == asked["0"]
        assert asked["1"][1].endswith("[openvino]")


def test_what_the_cuda_provider_loads_is_pinned() -> None:
    """Its wheel accepts any minor version of them."""
    pinned = _pinned()

    for name in ("cuda-nvrtc", "cuda-runtime", "cufft", "curand", "cublas"):
        assert f"nvidia-{name}" in pinned
    assert pinned["nvidia-cudnn-cu13"].startswith("9.14.")  # what it was compiled with


def test_the_image_runs_as_a_numeric_user_that_is_not_root() -> None:
    [user] = [rest for name, rest in _final_stage() if name == "USER"]

    assert all(int(part) > 0 for part in user.split(":"))


def test_the_final_stage_only_copies_what_the_first_built() -> None:
    stage = _final_stage()

    assert "RUN" not in {name for name, _ in stage}
    assert all(rest.startswith("--from=build ") for name, rest in stage if name == "COPY")


def test_the_command_is_in_exec_form_so_that_signals_reach_it() -> None:
    [entrypoint] = [rest for name, rest in _final_stage() if name == "ENTRYPOINT"]
    [command] = [rest for name, rest in _final_stage() if name == "CMD"]

    assert (json.loads(entrypoint), json.loads(command)) == (["tidegate"], ["serve"])


def _allowed(path: str) -> bool:
    """Return whether `path` is in the build context: the last matching pattern decides."""
    allowed = True
    text = (ROOT / "docker" / "Dockerfile.dockerignore").read_text(encoding="utf-8")
    for line in text.splitlines():
        if line and not line.startswith("#"):
            pattern = line.removeprefix("!")
            if fnmatch(path, pattern) or fnmatch(path, f"{pattern}/*"):
                allowed = line.startswith("!")
    return allowed


def test_copied_files_exist_and_are_in_the_build_context() -> None:
    copies = [rest.split()[:-1] for name, rest in _instructions() if name == "COPY"]
    sources = [s for copy in copies if not copy[0].startswith("--from") for s in copy]

    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert _allowed(source), source


def test_both_images_have_the_same_build_context() -> None:
    ignored = [ROOT / "docker" / f"Dockerfile{kind}.dockerignore" for kind in ("", ".gpu")]

    assert len({path.read_text(encoding="utf-8") for path in ignored}) == 1


@pytest.mark.parametrize("path", [".git/config", "models/bundles/x/1/model.onnx", "tests/a.py"])
def test_files_that_the_image_does_not_need_are_not_in_the_build_context(path: str) -> None:
    assert not _allowed(path)


def _healthcheck() -> list[str]:
    [check] = [rest for name, rest in _final_stage() if name == "HEALTHCHECK"]
    command: list[str] = json.loads(check[check.index("CMD ") + 4 :])
    assert command[0] == "tidegate"
    return [sys.executable, "-m", "tidegate.service", *command[1:]]


class FakeReadiness(QuietHandler):
    """Answers /readyz with its server's status, and anything else with 404."""

    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == "/readyz" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def _serving(status: int) -> Iterator[int]:
    handler = type("Handler", (FakeReadiness,), {"status": status})
    with serving(handler) as port:
        yield port


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
def test_the_health_check_tests_readiness_and_ignores_proxies(status: int, healthy: bool) -> None:
    with _serving(status) as port:
        environment = {**os.environ, "TIDEGATE_PORT": str(port), "http_proxy": "http://[::1]:1"}
        done = subprocess.run(
            _healthcheck(), env=environment, capture_output=True, timeout=PATIENCE_S, check=False
        )

    assert (done.returncode == 0) is healthy, done.stderr.decode()


FETCHING = ("docker/fetch_prometheus.sh", "docker/fetch_proxies.sh", "tests/page/fetch_chromium.sh")


@pytest.mark.parametrize("name", FETCHING)
def test_a_fetch_script_is_executable_and_parses(name: str) -> None:
    assert os.access(ROOT / name, os.X_OK)
    for script in (ROOT / name, ROOT / "docker" / "debian_packages.sh"):
        subprocess.run(["sh", "-n", script], check=True, timeout=PATIENCE_S)


@pytest.mark.parametrize("name", FETCHING)
def test_without_apt_a_fetch_script_reports_what_is_missing(name: str, tmp_path: Path) -> None:
    for tool in ("sh", "dirname", "rm"):
        (tmp_path / tool).symlink_to(f"/usr/bin/{tool}")
    for part in (name, "docker/debian_packages.sh"):  # copies without .tools next to them
        (tmp_path / part).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / part).write_text((ROOT / part).read_text(encoding="utf-8"))
    script = tmp_path / name

    done = subprocess.run(
        ["/usr/bin/env", "sh", script],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )

    assert done.returncode == 1
    assert "apt-get not found" in done.stderr
