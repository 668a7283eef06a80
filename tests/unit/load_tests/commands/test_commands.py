"""The commands: their output, their saved results and their error messages."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from load_tests.__main__ import COMMANDS, main
from load_tests.generator.ledger import Progress
from load_tests.report.progress_bar import facts
from load_tests.scenarios import neighbours, steady
from tests.unit.load_tests.fakes import OK, OVERLOADED, FakeServer, served

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[4]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"not decoded by anyone here")
    return folder


def test_a_run_is_printed_and_saved_with_its_machine_and_command(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results" / "run.json"

    with served(FakeServer([OK])) as url:
        words = f"run --url {url} --images {images} --rate 100 --duration 0.2 --json {out}".split()
        code = main(words)

    kept = json.loads(out.read_text())
    assert code == 0
    assert "statuses          200" in capsys.readouterr().out
    assert kept["command"].startswith("python -m load_tests run --url")
    assert kept["machine"]["cores"] >= 1
    assert kept["load"]["rate"] == 100
    assert kept["report"]["answered"] == kept["report"]["requests"] > 0


def test_a_multipart_run_sends_the_image_as_the_part_file(images: Path) -> None:
    fake = FakeServer([OK])

    with served(fake) as url:
        words = f"run --url {url} --images {images} --closed 1 --duration 0.1 --form multipart"
        main(words.split())

    boundary = fake.bodies[0].partition(b"\r\n")[0]
    assert fake.bodies[0].split(b"\r\n")[1:] == [
        b'Content-Disposition: form-data; name="file"; filename="a.jpg"',
        b"Content-Type: image/jpeg",
        b"",
        b"not decoded by anyone here",
        boundary + b"--",
        b"",
    ]


def test_a_run_without_an_answer_exits_1(images: Path) -> None:
    with served(FakeServer([OVERLOADED])) as url:
        words = f"run --url {url} --images {images} --rate 50 --duration 0.1".split()

        assert main(words) == 1


def test_without_a_folder_a_mix_is_generated() -> None:
    fake = FakeServer([OK])

    with served(fake) as url:
        main(f"run --url {url} --closed 2 --duration 0.3".split())

    assert {body[:4] for body in fake.bodies} >= {b"\xff\xd8\xff\xe0", b"RIFF"}


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("run --rate 0", "expected a positive number, got 0"),
        ("run --rate x", "expected a number, got x"),
        ("run --closed 1.5", "expected a whole number"),
        ("run --rate 5 --closed 5", "not allowed with"),
        ("run --vanish 2", "share from 0 to 1"),
        ("run --url https://127.0.0.1/", "expected http://"),
        ("run --images nowhere", "no image below nowhere"),
        ("run --form json", "invalid choice"),
        ("scenarios", "--server-pid"),
        ("scenarios --server-pid 1 --only storm", "unknown scenario storm; known: light"),
        ("walk", "invalid choice"),
        ("", "COMMAND"),
    ],
)
def test_bad_arguments_exit_2_with_the_reason(
    words: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words.split())

    assert stopped.value.code == 2
    assert reason in capsys.readouterr().err


def test_a_result_that_cannot_be_written_is_reported(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")

    with served(FakeServer([OK])) as url:
        words = f"run --url {url} --images {images} --closed 1 --duration 0.1 --json"
        code = main([*words.split(), str(tmp_path / "file" / "out.json")])

    assert code == 1
    assert "error:" in capsys.readouterr().err


def test_scenarios_print_and_save_each_quantity_with_its_aim(
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(neighbours, "SETTLE_S", 0.1)
    out = tmp_path / "scenarios.json"

    with served(FakeServer([OK])) as url:
        words = f"scenarios --url {url} --images {images} --server-pid {os.getpid()}"
        words += " --only burst,soak --capacity 100 --duration 0.5 --rounds 1 --window-s 0.3"
        code = main([*words.split(), "--json", str(out)])

    text = capsys.readouterr().out
    kept = json.loads(out.read_text())["scenarios"]
    assert code == 0
    assert "capacity 100.0/s (given)" in text
    assert "disturbing clients: answered                  200 clients" in text
    assert set(kept) == {"capacity", "burst", "soak"}
    assert len(kept["soak"]["samples"]) > 1
    assert kept["soak"]["runs"]["soak"]["load"]["rate"] == 70


def test_scenarios_of_a_server_that_answers_nothing_exit_1(
    images: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steady, "CAPACITY_S", 0.1)
    monkeypatch.setattr(steady, "WARM_UP_S", 0.0)

    with served(FakeServer([OVERLOADED])) as url:
        words = f"scenarios --url {url} --images {images} --server-pid {os.getpid()}".split()

        assert main(words) == 1

    assert "nothing measured: none of" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "images", "scenarios"])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])

    assert stopped.value.code == 0
    assert f"python -m load_tests {command}" in capsys.readouterr().out


def test_the_package_runs_as_a_module_and_lists_its_commands() -> None:
    command = [sys.executable, "-m", "load_tests", "--help"]

    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)

    assert done.returncode == 0
    assert all(f"  {name}" in done.stdout for name in COMMANDS)


def test_the_progress_line_leaves_out_missing_values() -> None:
    progress = Progress(2.0, 120, 100, 15, 5, 0, 50.2, 12.3, 45.6)

    assert facts(progress) == ("done 120  50/s  refused 15  errors 5  p50 12.3 ms  p99 45.6 ms")
    assert "p50" not in facts(Progress(2.0, 0, 0, 0, 0, 0, 0.0, None, None))
