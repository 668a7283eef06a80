"""The systemd unit, and the checks of systemd's tools if they are installed."""

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from load_tests.commands.memory import MOST_MB
from tidegate.service.settings import Settings

UNIT = Path(__file__).parents[2] / "docker" / "systemd" / "tidegate.service"


class Unit(configparser.RawConfigParser):
    """Parse a unit file: keys keep their case, and a repeated key has its last value."""

    def optionxform(self, optionstr: str) -> str:
        return optionstr


@pytest.fixture
def service() -> configparser.SectionProxy:
    unit = Unit(strict=False, comment_prefixes="#", delimiters="=", interpolation=None)
    unit.read(UNIT, encoding="utf-8")
    return unit["Service"]


def test_the_stop_waits_longer_than_the_drain(service: configparser.SectionProxy) -> None:
    fields = Settings.model_fields

    drain_s = fields["drain_delay_s"].default + fields["drain_timeout_s"].default
    assert int(service["TimeoutStopSec"]) > drain_s


def test_the_service_accepts_its_environment(
    service: configparser.SectionProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = dict(pair.split("=", 1) for pair in service["Environment"].split())
    for name, value in given.items():
        monkeypatch.setenv(name, value)

    state = Settings.read().drift_state

    assert state is not None
    assert state.parent == Path("/var/lib") / service["StateDirectory"]


def test_a_reload_is_the_signal_that_the_service_follows(
    service: configparser.SectionProxy,
) -> None:
    """tests/api/test_models.py sends the signal to a real server."""
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert service["Type"] == "exec"  # with `simple`, a signal might come before the program


def test_the_serving_file_can_be_where_the_service_can_write(
    service: configparser.SectionProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The places that the unit's comment and the guide name."""
    guide = (UNIT.parents[2] / "docs/guides/deploy.md").read_text(encoding="utf-8")
    [block] = [b for b in re.findall(r"```ini\n(.*?)```", guide, re.DOTALL) if "MODELS" in b]
    for name, value in (line.split("=", 1) for line in block.splitlines()):
        monkeypatch.setenv(name, value)

    settings = Settings.read()

    assert settings.serving is not None
    assert settings.serving.parent == Path("/var/lib") / service["StateDirectory"]
    assert service["ReadOnlyPaths"] == f"-{settings.models}"


def test_a_rejected_start_is_not_retried(service: configparser.SectionProxy) -> None:
    assert service["Restart"] == "on-failure"
    assert service["RestartPreventExitStatus"] == "1"  # unlike 70, a hung engine


def test_systemd_reports_no_error_and_low_exposure(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd is not installed here")
    text = UNIT.read_text(encoding="utf-8").replace("/opt/tidegate/bin/tidegate", "/bin/true")
    unit = tmp_path / "tidegate.service"  # verify requires that the program exists
    unit.write_text(text, encoding="utf-8")

    for verb in (["verify", "--man=no"], ["security", "--offline=true", "--threshold=20"]):
        done = subprocess.run(
            [analyze, *verb, unit], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_a_decoder_killed_for_memory_does_not_end_the_service(
    service: configparser.SectionProxy,
) -> None:
    """With `stop` the whole unit ends if the kernel kills any of its processes."""
    assert service["OOMPolicy"] == "continue"


def test_the_unit_for_small_machines_sets_the_profile_and_its_limits_fit(
    service: configparser.SectionProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (UNIT.parent / "tidegate.service.d/edge.conf").read_text(encoding="utf-8")
    for name, value in re.findall(r"^Environment=(\w+)=(\S+)$", text, re.MULTILINE):
        monkeypatch.setenv(name, value)
    limits = dict(re.findall(r"^(Memory\w+)=(\d+)M$", text, re.MULTILINE))

    settings = Settings.read()

    assert settings.profile == "edge"
    assert settings.warm_up_cache is not None
    assert settings.warm_up_cache.parent == Path("/var/lib") / service["StateDirectory"]
    uploads_mb = settings.max_inflight_bytes / (1 << 20)
    assert MOST_MB + uploads_mb < int(limits["MemoryHigh"]) < int(limits["MemoryMax"])
