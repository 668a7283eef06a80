"""Every command that a page prints is run; or parsed, where running it here takes too much.

What can be neither is listed with its reason.
"""

from __future__ import annotations

import base64
import importlib
import json
import os
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.tables.commands import parsers
from load_tests.__main__ import COMMANDS
from tests.docs.pages import PAGES, commands, name_of
from tests.processes import output
from tests.server import PATIENCE_S, PHOTOS, ROOT, Server, launched, running
from tidegate.service.api.dialects.names import NAMES

NOT_RUN = {
    "docker compose up --build": "needs a Docker engine",
    "COMPOSE_PROFILES=gpu docker compose up --build": "needs a Docker engine and a GPU",
    "docker build --file docker/Dockerfile --build-arg OPENVINO=1 --tag tidegate:openvino .": (
        "needs a Docker engine"
    ),
    "OPENVINO=1 docker compose up --build": "needs a Docker engine",
    "kustomize edit set image tidegate=REGISTRY/tidegate:VERSION": "names your registry",
    "kubectl apply -k docker/kubernetes/base": "needs a cluster",
    "kubectl apply -k docker/kubernetes/kserve": "needs a cluster",
    "kubectl apply -k docker/kubernetes/overlays/pull": "needs a cluster",
    "kubectl create -f docker/kubernetes/overlays/models/pull.yaml": "needs a cluster",
    "kubectl apply -k docker/kubernetes/overlays/models": "needs a cluster",
    "kubectl apply -k docker/kubernetes/kserve-models": "needs a cluster",
    "kubectl exec deploy/tidegate -- tidegate serving show": "needs a cluster",
    "MODELS=/srv/bundles docker compose -f docker-compose.yml -f docker-compose.models.yml "
    "up --build": "needs a Docker engine",
    "docker compose -f docker-compose.yml -f docker-compose.keys.yml up --build": (
        "needs a Docker engine"
    ),
    "kubectl create secret generic tidegate-keys --from-file=keys": "needs a cluster",
    "kubectl create secret generic tidegate-metrics-key --from-file=key": "needs a cluster",
    "kubectl apply -k docker/kubernetes/overlays/keys": "needs a cluster",
    "docker run --rm tidegate:local describe": "needs a Docker engine",
    "tar --create --gzip --file model.tar.gz --directory models/bundles/efficientnet-lite0/1 .": (
        "writes the bundle again"
    ),
    "tidegate export-plain models/bundles/efficientnet-lite0-bf16/1 build/plain-bf16": (
        "needs the bundle of the line before, which needs the extra openvino"
    ),
    "docker compose -f docker-compose.yml -f docker-compose.traces.yml up --build": (
        "needs a Docker engine"
    ),
    "pip install py-spy": "installs into the environment",
    "py-spy record --pid PID --native --duration 30 --output OUT": "needs the right to trace",
    "perf record -g --pid PID -- sleep 30": "needs the right to trace",
    "systemctl reload tidegate": "needs systemd",
    "systemctl daemon-reload": "needs systemd",
    "mkdir -p /etc/systemd/system/tidegate.service.d": "installs into the system",
    "cp docker/systemd/tidegate.service.d/edge.conf /etc/systemd/system/tidegate.service.d/": (
        "installs into the system"
    ),
    "docker buildx build --platform linux/arm64 --file docker/Dockerfile --tag tidegate:arm64 "
    "--load .": "needs a Docker engine",
    "docker run --rm --cpus 2 --memory 512m --memory-swap 512m --read-only --tmpfs /tmp:size=64m "
    "--env TIDEGATE_PROFILE=edge --publish 127.0.0.1:8000:8000 tidegate:arm64": (
        "needs a Docker engine"
    ),
    "mkdir -p build/trusted": "for the lines after it",
    "openssl ecparam -name prime256v1 -genkey -noout -out build/signing-key.pem": "makes a key",
    "openssl ec -in build/signing-key.pem -pubout -out build/trusted/release.pem": (
        "needs the key of the line before"
    ),
    "tidegate bundle sign models/bundles/efficientnet-lite0/1 --key build/signing-key.pem": (
        "changes the demo bundle, and has tests of its own"
    ),
    "pip install model-signing pyopenssl": "installs into the environment",
    "model_signing verify key BUNDLE --signature BUNDLE/model.sig --public_key release.pem": (
        "has tests of its own"
    ),
    "model_signing sign key BUNDLE --signature BUNDLE/model.sig --private_key signing-key.pem": (
        "has tests of its own"
    ),
    "python3 -m venv /opt/tidegate": "installs into the system",
    '/opt/tidegate/bin/pip install ".[cpu]"': "installs into the system",
    "cp docker/systemd/tidegate.service /etc/systemd/system/": "installs into the system",
    "systemctl enable --now tidegate": "needs systemd",
    'pip install "tidegate[grpc]"': "installs into the environment",
    "perf_analyzer -m efficientnet-lite0 -u 127.0.0.1:8000 --input-data images.json": (
        "needs the program, which has tests of its own"
    ),
    "perf_analyzer -m efficientnet-lite0.pixels -u 127.0.0.1:8000 -b 4": (
        "needs the program, which has tests of its own"
    ),
    ". .venv/bin/activate": "changes the shell that runs it",
    ".venv/bin/python -m pytest -m slow": "runs the slow tests",
    ".venv/bin/python -m pytest tests/unit/ood -k p_value": "runs tests that run anyway",
    ".venv/bin/python -m tests.unit.drift.months --seeds 100 "
    "--out tests/unit/drift/months.json": "simulates for hours",
    ".venv/bin/python -m tests.docker.month --seeds 100": "simulates for an hour",
    ".venv/bin/python -m tests.unit.rollout.canaries --runs 1000 "
    "--out tests/unit/rollout/canaries.json": "simulates for minutes",
    "locust -f load_tests/locustfile.py --host http://127.0.0.1:8000": "needs Locust",
    'curl --fail -X POST -H "Authorization: Bearer $(cat token)" '
    "http://127.0.0.1:8000/admin/reload": "needs a token, and has tests of its own",
    'curl --fail -X POST -H "Authorization: Bearer $(cat token)" '
    "http://127.0.0.1:8000/admin/models/parts/promote": "needs a canary, and has tests of its own",
    'curl --fail -X POST -H "Authorization: Bearer $(cat token)" '
    "http://127.0.0.1:8000/admin/models/parts/rollback": "needs a canary, and has tests of its own",
    'curl -H "Authorization: Bearer $(cat retrain-token)" http://127.0.0.1:9000/requests': (
        "needs the receiver of the line before, which has tests of its own"
    ),
}
# What `tidegate` does quickly and without another machine; the other commands are parsed.
RUN = {"--version", "describe", "bundle", "completion", "export-plain", "health"}
PLACEHOLDERS = {"PID": "1", "DIR": "images", "OUT": "out"}
STATUSES = {  # of the commands whose answer is not 200
    r"grass\.png http://[\w.:]+/classify$": 422,
    r"/feedback$": 404,  # that image was not answered by this server
}

EVERY = [(name_of(page), line) for page in PAGES for line in commands(page)]


def of(*programs: str) -> list[tuple[str, str]]:
    """Return the commands of these programs, each once, with the last page that prints it."""
    page_of = {line: page for page, line in EVERY if line not in NOT_RUN}
    return [(page, line) for line, page in page_of.items() if words(line)[0] in programs]


def words(line: str) -> list[str]:
    """Return a command's words, without the variables before it."""
    return shlex.split(re.sub(r"^([A-Z_]+=\S+ )+", "", line), comments=True)


@pytest.fixture(scope="module")
def server(demo_bundle: Path) -> Iterator[Server]:
    """A server with every dialect, because each has a guide."""
    with running(demo_bundle, dialects=",".join(NAMES)) as started:
        yield started


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A working directory with the repository's models, and with a user's photo and requests."""
    (tmp_path / "models").symlink_to(ROOT / "models")
    (tmp_path / "photo.jpg").symlink_to(PHOTOS / "rocket.jpg")
    text = base64.b64encode((PHOTOS / "rocket.jpg").read_bytes()).decode()
    for name, request in (
        ("instances", {"instances": [{"b64": text}]}),
        ("image", {"image": text}),
        ("inputs", {"inputs": text, "parameters": {"top_k": 3}}),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(request), "utf-8")
    return tmp_path


def run(command: list[str], cwd: Path, **variables: str) -> str:
    """Run a command; return its standard output."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return output(command, cwd, environment, PATIENCE_S)


def test_every_command_is_covered_or_listed_with_a_reason() -> None:
    programs = {"curl", "make", "tidegate", "python", "pip"}
    rest = {line for _, line in EVERY if words(line)[0] not in programs} | {
        line for _, line in EVERY if line in NOT_RUN
    }

    assert rest == set(NOT_RUN)
    assert len(EVERY) > 60


@pytest.mark.parametrize(("page", "line"), of("curl"))
def test_every_curl_gets_its_answer(server: Server, folder: Path, page: str, line: str) -> None:
    url = line.replace("http://127.0.0.1:8000", server.url)
    expected = next((code for form, code in STATUSES.items() if re.search(form, line)), 200)

    status = run([*words(url), "-sS", "-o", "/dev/null", "-w", "%{http_code}"], folder)

    assert int(status) == expected, page


@pytest.mark.parametrize(("page", "line"), of("make"))
def test_every_make_target_exists(page: str, line: str) -> None:
    run(["make", "--dry-run", *words(line)[1:]], ROOT)


@pytest.mark.parametrize(("page", "line"), of("tidegate"))
def test_every_tidegate_command_runs_or_is_accepted(
    server: Server, folder: Path, page: str, line: str
) -> None:
    given = words(line)[1:]
    if given[0] in RUN:
        port = server.url.rpartition(":")[2]
        run([sys.executable, "-m", "tidegate.service", *given], folder, TIDEGATE_PORT=port)
        return
    known = parsers()
    name = next(n for k in (2, 1) if (n := " ".join(["tidegate", *given[:k]])) in known)

    known[name].parse_args(given[name.count(" ") :])  # ends the process for a wrong one


@pytest.mark.parametrize(("page", "line"), of("python"))
def test_every_load_test_is_accepted(page: str, line: str) -> None:
    dash, package, name, *given = words(line)[1:]
    assert (dash, package) == ("-m", "load_tests")
    command = importlib.import_module(f"load_tests.commands.{COMMANDS[name][0]}")

    command.parser().parse_args([PLACEHOLDERS.get(word, word) for word in given])


@pytest.mark.parametrize(("page", "line"), of("pip"))
def test_every_extra_and_group_exists(page: str, line: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    extras = [extra for found in re.findall(r"\.\[([\w,-]+)\]", line) for extra in found.split(",")]
    groups = re.findall(r"--group (\S+)", line)

    assert set(extras) <= project["project"]["optional-dependencies"].keys()
    assert set(groups) <= project["dependency-groups"].keys()
    assert extras or groups or "--no-deps" in line


def test_make_serve_serves(demo_bundle: Path) -> None:
    """The real target, with everything it would set up already there."""
    with launched(demo_bundle, command=["make", "--silent", "serve"]) as server:
        server.wait_for("ready")
