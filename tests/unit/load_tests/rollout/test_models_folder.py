"""The serving file, the log and the resources of a process."""

import asyncio
import json
import os
import tomllib
from pathlib import Path

import pytest

from load_tests.errors import MeasurementFailed
from load_tests.rollout.models_folder import Log, ModelsFolder, messages, resources


def line(message: str) -> bytes:
    return json.dumps({"message": message}).encode() + b"\n"


def serving(models: ModelsFolder) -> dict[str, object]:
    return tomllib.loads((models.folder / "serving.toml").read_text())


def test_the_serving_file_names_versions_and_a_share(tmp_path: Path) -> None:
    models = ModelsFolder(tmp_path, "parts-1.5")

    assert models.serve("3")
    assert serving(models) == {"parts-1.5": {"stable": "3"}}

    assert models.serve("3", shadow="4", share=0.2)
    assert serving(models) == {
        "parts-1.5": {"stable": "3", "shadow": {"version": "4", "share": 0.2}}
    }
    assert not models.serve("3", shadow="4", share=0.2)
    assert [path.name for path in tmp_path.iterdir()] == ["serving.toml"]


def test_requests_and_lines_of_libraries_are_no_messages() -> None:
    request = b'{"message":"request","status":200}\n'

    assert list(messages(request + b"Traceback\n" + line("loaded"))) == ["loaded"]


def test_each_message_is_read_once_and_earlier_ones_are_not(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(line("reload of a: loaded: before"))
    log = Log(path)
    with path.open("ab") as file:
        file.write(line("reload of a: loaded") + line("other") + line("unloaded a") + b'{"mess')
    seen = [
        asyncio.run(log.message("reload of a", timeout_s=5)),
        asyncio.run(log.message("refused", "unloaded", timeout_s=5)),
    ]
    with path.open("ab") as file:  # the rest of a line that was not complete
        file.write(b'age":"drained"}\n')
    seen.append(asyncio.run(log.message("drained", timeout_s=5)))

    assert seen == ["reload of a: loaded", "unloaded a", "drained"]


def test_a_message_that_does_not_come_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"")

    with pytest.raises(MeasurementFailed, match="did not log 'loaded' within 0 s"):
        asyncio.run(Log(path).message("loaded", timeout_s=0))


def test_descriptors_are_counted_without_sockets() -> None:
    before = resources(os.getpid())
    read, write = os.pipe()
    try:
        assert resources(os.getpid()).descriptors == before.descriptors + 2
    finally:
        os.close(read)
        os.close(write)
    assert before.resident_mb > 1
    assert before.threads >= 1


def test_a_process_that_is_gone_has_no_resources() -> None:
    with pytest.raises(ProcessLookupError):
        resources(2**22 + 1)
