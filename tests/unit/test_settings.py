from __future__ import annotations

import re
from pathlib import Path

import pytest

from tidegate.service.errors import SettingsInvalid
from tidegate.service.settings import PREFIX, Settings
from tidegate.service.settings.profiles import PROFILES

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "settings.md"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(PREFIX + name.upper(), raising=False)


def test_the_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_DEADLINE_MS", "250")

    assert Settings.read().http_limits().deadline_s == 0.25


def test_the_command_line_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_PORT", "1111")

    assert Settings.read({"port": 2222, "host": None}).port == 2222


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("TIDEGATE_PROT", "TIDEGATE_PORT"),
        ("TIDEGATE_DECODE_THREAD", "TIDEGATE_DECODE_THREADS"),
        ("tidegate_max_que", "TIDEGATE_MAX_QUEUE"),
    ],
)
def test_a_misspelt_name_is_rejected_with_the_nearest_known_one(
    monkeypatch: pytest.MonkeyPatch, wrong: str, right: str
) -> None:
    monkeypatch.setenv(wrong, "1")

    with pytest.raises(SettingsInvalid, match=right):
        Settings.read()


def test_a_folder_of_models_and_a_bundle_exclude_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TIDEGATE_MODELS", "/bundles")
    assert Settings.read().models == Path("/bundles")
    with pytest.raises(SettingsInvalid, match="exclude each other"):
        Settings.read({"bundle": "/bundles/parts/3"})

    monkeypatch.setenv("TIDEGATE_BUNDLE", "/bundles/parts/3")
    with pytest.raises(SettingsInvalid, match="TIDEGATE_MODELS and TIDEGATE_BUNDLE exclude"):
        Settings.read()

    monkeypatch.setenv("TIDEGATE_MODELS", " ")
    monkeypatch.setenv("TIDEGATE_SERVING", "")
    assert Settings.read().models is None
    monkeypatch.setenv("TIDEGATE_SERVING", "/etc/serving.toml")
    with pytest.raises(SettingsInvalid, match="TIDEGATE_SERVING needs TIDEGATE_MODELS"):
        Settings.read()


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "70000"), ("PORT", "eighty"), ("OOD_ACTION", "ignore"), ("DEADLINE_MS", "0")],
)
def test_a_value_out_of_bounds_is_rejected_with_its_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(PREFIX + name, value)

    with pytest.raises(SettingsInvalid, match=f"TIDEGATE_{name}={value}"):
        Settings.read()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TIDEGATE_SERVICE_HOST", "10.0.0.1"),
        ("TIDEGATE_PORT_8000_TCP", "tcp://10.0.0.1:8000"),
        ("TIDEGATE_PORT", "tcp://10.0.0.1:8000"),
        ("TIDEGATE_CANARY_SERVICE_PORT_HTTP", "8000"),
        ("TIDEGATE_CANARY_PORT_8000_TCP_ADDR", "10.0.0.1"),
        ("TIDEGATE_CANARY_PORT", "tcp://10.0.0.1:8000"),
    ],
)
def test_variables_that_kubernetes_sets_for_a_service_are_recognised(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(SettingsInvalid, match="enableServiceLinks: false"):
        Settings.read()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("TIDEGATE_MAX_INFLIGHT_BYTES", "1000", "is less than TIDEGATE_MAX_UPLOAD_BYTES"),
        ("TIDEGATE_DEADLINE_MS", "90000", "is less than TIDEGATE_DEADLINE_MS"),
    ],
)
def test_contradictory_limits_are_rejected(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)

    with pytest.raises(SettingsInvalid, match=message):
        Settings.read()


def test_every_setting_has_a_row_in_the_reference_with_its_default() -> None:
    rows = dict(
        re.findall(r"^\| `(TIDEGATE_\w+)` \| `?([^|`]*)`? \|", PAGE.read_text("utf-8"), re.M)
    )

    defaults = {
        PREFIX + name.upper(): "unset" if field.default is None else str(field.default)
        for name, field in Settings.model_fields.items()
    }
    assert rows == defaults


def test_every_setting_is_read_somewhere() -> None:
    service = ROOT / "service"
    readers = [
        *(service / f"{name}.py" for name in ("app", "road", "security")),
        *(service / "settings").glob("*.py"),
        *(service / "commands").glob("*.py"),
    ]
    sources = "".join(path.read_text("utf-8") for path in readers)

    for name in Settings.model_fields:
        assert re.search(rf"(self|settings)\.{name}\b", sources), name


@pytest.mark.parametrize("blank", ["", "  ", "\t"], ids=["empty", "spaces", "tab"])
@pytest.mark.parametrize("name", Settings.model_fields)
def test_a_blank_value_counts_as_unset(
    monkeypatch: pytest.MonkeyPatch, name: str, blank: str
) -> None:
    """Compose writes `NAME=` for `${NAME:-}`, and a blank path would be the working directory."""
    unset = Settings.read()
    monkeypatch.setenv(PREFIX + name.upper(), blank)

    assert Settings.read() == unset


def test_a_profile_changes_defaults_and_settings_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_PROFILE", "edge")
    monkeypatch.setenv("TIDEGATE_MAX_QUEUE", "7")

    edge = Settings.read({"port": 2222})

    expected = {**PROFILES["edge"], "max_queue": 7, "port": 2222, "profile": "edge"}
    usual = {name: field.default for name, field in Settings.model_fields.items()}
    assert edge.model_dump() == {**usual, **expected}
    engine = edge.engine_config()
    assert (engine.slots, engine.max_batch_size, engine.warm_up_limit_s) == (1, 1, 10)
    assert edge.service_config().serving.large_decoders == 1


def test_a_profile_and_a_platform_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_PROFILE", "edge")
    monkeypatch.setenv("TIDEGATE_PLATFORM", "vertex")

    settings = Settings.read()

    assert (settings.slots, settings.port) == (1, 8080)


def test_an_unknown_profile_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEGATE_PROFILE", "cloud")

    with pytest.raises(SettingsInvalid, match=r"TIDEGATE_PROFILE=cloud: .*'edge'"):
        Settings.read()


def test_every_value_of_a_profile_differs_from_the_usual_default() -> None:
    for values in PROFILES.values():
        for name, value in values.items():
            assert value != Settings.model_fields[name].default, name


@pytest.mark.parametrize("name", ["bundle", "host"])
def test_a_blank_argument_does_not_override_the_environment(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(PREFIX + name.upper(), "set")

    assert str(getattr(Settings.read({name: " "}), name)) == "set"


@pytest.mark.parametrize("host", ["127.0.0.1,", ",", "::1, ,127.0.0.1"])
def test_an_empty_address_in_a_list_is_rejected(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("TIDEGATE_HOST", host)

    with pytest.raises(SettingsInvalid, match=r"TIDEGATE_HOST=.*empty address"):
        Settings.read()
