"""The presets of platforms: what they set, and what wins over them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tidegate.service import platforms
from tidegate.service.errors import SettingsInvalid
from tidegate.service.platforms import PLATFORMS, Facts, facts, hint
from tidegate.service.settings import Settings


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of each platform's model, here a temporary one."""
    monkeypatch.setattr(platforms, "_MODEL_FOLDERS", {"sagemaker": tmp_path, "kserve": tmp_path})
    return tmp_path


def settings(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return Settings.read()


@pytest.mark.parametrize(
    ("variables", "port", "dialects"),
    [
        ({"TIDEGATE_PLATFORM": "sagemaker"}, 8080, "sagemaker"),
        ({"TIDEGATE_PLATFORM": "sagemaker", "SAGEMAKER_BIND_TO_PORT": "9001"}, 9001, "sagemaker"),
        ({"TIDEGATE_PLATFORM": "vertex"}, 8080, "vertex"),
        ({"TIDEGATE_PLATFORM": "vertex", "AIP_HTTP_PORT": "9002"}, 9002, "vertex"),
        ({"TIDEGATE_PLATFORM": "kserve"}, 8080, "v1,v2"),
        ({"TIDEGATE_PLATFORM": "kserve", "PORT": "9003"}, 9003, "v1,v2"),
        ({"TIDEGATE_PLATFORM": "", "PORT": "9003"}, 8000, "v2"),
    ],
)
def test_a_platform_sets_port_and_dialects(
    monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str], port: int, dialects: str
) -> None:
    read = settings(monkeypatch, **variables)

    assert (read.port, read.dialects) == (port, dialects)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_platform_drains_within_its_grace_period(
    monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    read = settings(monkeypatch, TIDEGATE_PLATFORM=platform)

    assert read.host == "0.0.0.0"  # noqa: S104 - the preset
    assert read.drain_delay_s + read.drain_timeout_s < 30


def test_settings_of_the_environment_win(monkeypatch: pytest.MonkeyPatch) -> None:
    read = settings(
        monkeypatch,
        TIDEGATE_PLATFORM="sagemaker",
        TIDEGATE_PORT="9000",
        TIDEGATE_DIALECTS="none",
        TIDEGATE_HOST=" ",
    )

    assert (read.port, read.dialects, read.host) == (9000, "none", "0.0.0.0")  # noqa: S104


def test_an_unknown_platform_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsInvalid, match="TIDEGATE_PLATFORM=azure"):
        settings(monkeypatch, TIDEGATE_PLATFORM="azure")


@pytest.mark.parametrize("platform", ["sagemaker", "kserve"])
def test_the_platforms_bundle_wins_over_that_of_the_image(
    monkeypatch: pytest.MonkeyPatch, folder: Path, platform: str
) -> None:
    variables = {"TIDEGATE_PLATFORM": platform, "TIDEGATE_BUNDLE": "/bundles/demo/1"}
    before = settings(monkeypatch, **variables)

    (folder / "manifest.json").touch()

    assert before.bundle == Path("/bundles/demo/1")
    assert settings(monkeypatch, **variables).bundle == folder


def test_a_folder_without_a_bundle_is_not_replaced_by_the_image_s(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    (folder / "model.pt").touch()

    read = settings(monkeypatch, TIDEGATE_PLATFORM="kserve", TIDEGATE_BUNDLE="/bundles/demo/1")

    assert read.bundle == folder


def test_a_bundle_further_inside_can_be_chosen(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    (folder / "parts").mkdir()

    read = settings(monkeypatch, TIDEGATE_PLATFORM="sagemaker", TIDEGATE_BUNDLE=f"{folder}/parts/3")

    assert read.bundle == folder / "parts" / "3"


def test_the_platforms_bundle_does_not_exclude_a_folder_of_models(
    monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    (folder / "manifest.json").touch()

    read = settings(monkeypatch, TIDEGATE_PLATFORM="sagemaker", TIDEGATE_MODELS=str(folder))

    assert read.models == folder


@pytest.mark.parametrize("uri", ["", "gs://bucket/model"])
def test_vertex_serves_the_image_s_bundle_if_its_storage_is_remote(
    monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    read = settings(
        monkeypatch, TIDEGATE_PLATFORM="vertex", AIP_STORAGE_URI=uri, TIDEGATE_BUNDLE="/b"
    )

    assert read.bundle == Path("/b")


def test_vertex_serves_a_local_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").touch()

    read = settings(monkeypatch, TIDEGATE_PLATFORM="vertex", AIP_STORAGE_URI=str(tmp_path))

    assert read.bundle == tmp_path


def test_facts_are_read_from_the_platforms_variables() -> None:
    given = {"AIP_HEALTH_ROUTE": "/h", "AIP_PREDICT_ROUTE": "/v1/e/1:predict"}

    assert facts(given | {"SAGEMAKER_BATCH": "true"}) == Facts("/h", "/v1/e/1:predict", True)
    assert facts({}) == Facts("/health", "/predict", False)


@pytest.mark.parametrize("route", ["predict", "/a/{b}"])
def test_a_route_that_cannot_be_one_is_named(route: str) -> None:
    with pytest.raises(ValueError, match="AIP_PREDICT_ROUTE"):
        facts({"AIP_PREDICT_ROUTE": route})


@pytest.mark.parametrize(
    ("variables", "platform"),
    [
        ({"SAGEMAKER_REGION": "x"}, "sagemaker"),
        ({"AIP_MODE": "PREDICTION"}, "vertex"),
    ],
)
def test_what_looks_like_a_platform_is_only_a_hint(
    variables: Mapping[str, str], platform: str
) -> None:
    assert f"TIDEGATE_PLATFORM={platform}" in hint(variables)


def test_an_ordinary_machine_gives_no_hint(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    nowhere = folder / "nowhere"
    monkeypatch.setattr(platforms, "_MODEL_FOLDERS", {"sagemaker": nowhere, "kserve": nowhere})

    assert hint({"PATH": "/bin"}) == ""
