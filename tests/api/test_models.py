"""Several versions behind a real server: routes, reload by file, signal and request, SIGHUP."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.docker.programs import wait_for
from tests.server import PATIENCE_S, PHOTOS, Server, launched, running
from tests.unit.bundle.tiny_bundle import put, sound_files
from tidegate.service.bundle.store import read_manifest

PHOTO = (PHOTOS / "chelsea.png").read_bytes()
TOKEN = "let-me-in"  # noqa: S105 - of this test
MODEL = "tiny"
CLIENT = httpx.Client(timeout=PATIENCE_S, verify=False)  # noqa: S501 - plain HTTP; loads no CAs


def put_version(root: Path, version: str) -> str:
    """Put a small bundle as this version; return its digest."""

    def change(fields: dict[str, Any]) -> None:
        fields["version"] = version

    return read_manifest(put(root / MODEL / version, sound_files(), change)).digest


def put_file(root: Path, text: str) -> None:
    """Replace the serving file in one step."""
    (root / "new").write_text(text)
    (root / "new").replace(root / "serving.toml")


@pytest.fixture(scope="module")
def served(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Server, Path, dict[str, str]]]:
    """A server with versions 1 and 2, its folder, and the digests."""
    root = tmp_path_factory.mktemp("models")
    digests = {version: put_version(root, version) for version in ("1", "2")}
    put_file(root, f'[{MODEL}]\nstable = "1"\n')
    token = root / ".token"
    token.write_text(f"{TOKEN}\n")
    with running(bundle="", models=root, admin_token_file=token) as server:
        yield server, root, digests


def classify(url: str, path: str = "/classify", **headers: str) -> dict[str, Any]:
    response = CLIENT.post(url + path, content=PHOTO, headers=headers)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def reload(url: str, token: str = TOKEN) -> httpx.Response:
    headers = {"authorization": f"Bearer {token}"}
    return CLIENT.post(f"{url}/admin/reload", headers=headers)


def test_the_routes_of_models_and_versions(
    served: tuple[Server, Path, dict[str, str]],
) -> None:
    server, root, digests = served
    url = server.url
    put_file(root, f'[{MODEL}]\nstable = "1"\naliases = {{ next = "2" }}\n')
    assert reload(url).status_code == 200

    assert classify(url)["model"]["digest"] == digests["1"]
    assert classify(url, f"/models/{MODEL}/classify")["model"]["version"] == "1"
    for name in ("2", "next"):
        path = f"/models/{MODEL}/versions/{name}"
        assert classify(url, f"{path}/classify")["model"]["digest"] == digests["2"]
        assert CLIENT.get(url + path).json()["digest"] == digests["2"]
        assert CLIENT.get(f"{url}{path}/drift").json()["model"]["digest"] == digests["2"]
        headers = {"x-tidegate-version": name}
        assert classify(url, **headers)["model"]["digest"] == digests["2"]
    batch = CLIENT.post(
        f"{url}/models/{MODEL}/versions/2/classify/batch",
        files=[("files", PHOTO), ("files", b"no image")],
    )
    assert [item["status"] for item in batch.json()["results"]] == [200, 415]
    listed = CLIENT.get(f"{url}/models").json()
    assert [(one["version"], one["aliases"], one["is_default"]) for one in listed["models"]] == [
        ("1", ["stable"], True),
        ("2", ["next"], False),
    ]
    for path in ("/models/other/classify", f"/models/{MODEL}/versions/9/classify"):
        missing = CLIENT.post(url + path, content=PHOTO)
        assert (missing.status_code, missing.json()["code"]) == (404, "not-found")
    text = CLIENT.get(f"{url}/metrics").text
    route = "/models/{name}/versions/{version}/classify"
    assert f'tidegate_requests_total{{route="{route}",status="200"}}' in text
    digest = digests["2"][:12]
    assert f'tidegate_ood_decisions_total{{decision="accept",digest="{digest}"' in text


def test_a_change_of_the_file_and_a_signal_are_followed(
    served: tuple[Server, Path, dict[str, str]],
) -> None:
    server, root, digests = served
    put_file(root, f'[{MODEL}]\nstable = "1"\n')
    reload(server.url)

    put_file(root, f'[{MODEL}]\nstable = "2"\n')
    wait_until_served(server.url, digests["2"])
    put_file(root, f'[{MODEL}]\nstable = "1"\n')
    server.process.send_signal(signal.SIGHUP)
    wait_until_served(server.url, digests["1"])


def wait_until_served(url: str, digest: str) -> None:
    wait_for(lambda: classify(url)["model"]["digest"] == digest, f"{digest} is served")


def test_only_the_token_allows_a_reload_and_a_refused_file_changes_nothing(
    served: tuple[Server, Path, dict[str, str]],
) -> None:
    server, root, digests = served
    put_file(root, f'[{MODEL}]\nstable = "1"\n')
    assert reload(server.url).status_code == 200
    assert reload(server.url, "guess").status_code == 401
    assert CLIENT.post(f"{server.url}/admin/reload").json()["code"] == "unauthorized"

    put_file(root, f'[{MODEL}]\nstabel = "2"\n')
    refused = reload(server.url)

    assert (refused.status_code, refused.json()["code"]) == (422, "reload-refused")
    assert "Did you mean stable?" in refused.json()["detail"]
    assert classify(server.url)["model"]["digest"] == digests["1"]


def test_a_canary_is_promoted_and_rolled_back_by_request(
    served: tuple[Server, Path, dict[str, str]],
) -> None:
    server, root, digests = served
    url, headers = server.url, {"authorization": f"Bearer {TOKEN}"}
    put_file(root, f'[{MODEL}]\nstable = "1"\ncanary = {{ version = "2", share = 0.0 }}\n')
    assert reload(url).status_code == 200
    assert classify(url)["model"]["digest"] == digests["1"]
    shown = CLIENT.get(f"{url}/models/{MODEL}/rollout").json()
    assert (shown["canary"]["version"], shown["judge"]["step"]) == ("2", "wait")

    promoted = CLIENT.post(f"{url}/admin/models/{MODEL}/promote", headers=headers)
    assert (promoted.status_code, promoted.json()["step"]) == (200, "promote")
    assert classify(url)["model"]["digest"] == digests["2"]
    back = CLIENT.post(f"{url}/admin/models/{MODEL}/rollback", headers=headers)
    assert (back.status_code, back.json()["version"]) == (200, "2")
    assert classify(url)["model"]["digest"] == digests["1"]
    events = CLIENT.get(f"{url}/models/{MODEL}/rollout").json()["events"]
    assert [event["step"] for event in events] == ["rollback", "promote"]


def test_the_judge_counts_one_image_of_a_request_and_of_an_id_that_a_client_chose(
    served: tuple[Server, Path, dict[str, str]],
) -> None:
    server, root, _ = served
    put_file(root, f'[{MODEL}]\nstable = "1"\ncanary = {{ version = "2", share = 0.0 }}\n')
    assert reload(server.url).status_code == 200
    files = [("files", PHOTO)] * 3

    batch = CLIENT.post(f"{server.url}/classify/batch", files=files)
    assert [one["status"] for one in batch.json()["results"]] == [200] * 3
    for _ in range(2):
        classify(server.url, **{"x-request-id": "always-the-same"})
    classify(server.url)
    classify(server.url)

    judge = CLIENT.get(f"{server.url}/models/{MODEL}/rollout").json()["judge"]
    assert judge["images"] == {"stable": 4, "canary": 0}
    assert judge["not_counted"]["repeated_keys"] == 3


def test_without_a_token_there_is_no_administration(small_bundle: Path) -> None:
    with running(small_bundle) as server:
        response = reload(server.url)

    assert (response.status_code, response.json()["code"]) == (403, "forbidden")


def test_a_folder_that_says_nothing_is_refused_with_a_file_to_write(tmp_path: Path) -> None:
    for version in ("1", "2"):
        put_version(tmp_path, version)

    with launched(bundle="", models=tmp_path) as server:
        assert server.process.wait(PATIENCE_S) == 1

    assert any(f"[{MODEL}]" in message for message in server.messages())
