from __future__ import annotations

from pathlib import Path

import pytest

from tidegate.service.api.keys import parse_keys
from tidegate.service.cli import main


def make(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[str, str]:
    """Return the key and the line that the command prints."""
    assert main(["key", "new", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    return lines[1], lines[-1]


def test_a_new_key_belongs_to_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    key, line = make(capsys, "camera-1", "--scopes", "classify,feedback", "--rate", "2.5")

    client = parse_keys(line.encode()).find(key.encode())
    assert client is not None
    assert (client.name, client.rate) == ("camera-1", 2.5)
    assert set(client.scopes) == {"classify", "feedback"}
    assert key not in line


def test_limits_that_are_left_out_between_others_are_unset(
    capsys: pytest.CaptureFixture[str],
) -> None:
    _, line = make(capsys, "a", "--weight", "4")

    (client,) = parse_keys(line.encode()).clients
    assert (client.rate, client.burst, client.concurrent, client.weight) == (None, None, None, 4)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["two words"], "is not a name"),
        (["a", "--scopes", "all"], "'all' is not a scope; the scopes are classify, feedback"),
        (["a", "--burst", "0"], "burst is '0'"),
    ],
)
def test_what_the_file_would_refuse_is_refused(
    words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["key", "new", *words]) == 1
    assert reason in capsys.readouterr().err


def test_a_checked_file_is_listed_by_client(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [make(capsys, "a", "--rate", "5")[1], make(capsys, "a", "--rate", "5")[1]]
    lines.append(make(capsys, "operator", "--scopes", "metrics,admin")[1])
    (tmp_path / "keys").write_text("\n".join(lines))

    assert main(["key", "check", str(tmp_path / "keys")]) == 0

    assert capsys.readouterr().out.splitlines() == [
        "name      scopes         rate  burst  concurrent  weight",
        "a         classify       5     -      -           1",
        "operator  admin,metrics  -     -      -           1",
    ]


def test_a_wrong_file_is_reported_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "keys").write_text("\na b")

    assert main(["key", "check", str(tmp_path / "keys")]) == 1
    assert f"{tmp_path / 'keys'}: line 2: 2 columns" in capsys.readouterr().err
    assert main(["key", "check", str(tmp_path / "gone")]) == 1
    assert "No such file" in capsys.readouterr().err
