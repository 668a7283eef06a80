"""Tokens in files, and who has access with them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tidegate.service.api.access import has_token
from tidegate.service.errors import SettingsInvalid
from tidegate.service.settings import Settings
from tidegate.service.tokens import read_token


def scope(*values: str) -> dict[str, list[tuple[bytes, bytes]]]:
    return {"headers": [(b"authorization", value.encode("latin-1")) for value in values]}


def test_a_token_is_read_without_white_space_also_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "..data").write_text("  secret\n")
    (tmp_path / "token").symlink_to("..data")

    assert read_token(tmp_path / "token") == b"secret"


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b" \n", "is empty"), (b"two words", "without spaces"), (b"x" * 4097, "at most 4096")],
)
def test_a_file_without_a_usable_token_is_refused(
    tmp_path: Path, content: bytes, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_bytes(content)
    monkeypatch.setenv("TIDEGATE_ADMIN_TOKEN_FILE", f"{tmp_path / 'token'}")

    with pytest.raises(SettingsInvalid, match=reason):
        Settings.read().admin_token()


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "token")

    with pytest.raises(ValueError, match="not a regular file"):
        read_token(tmp_path / "token")


@pytest.mark.parametrize(
    ("values", "has"),
    [
        (["Bearer secret"], True),
        (["bearer  secret "], True),
        (["Bearer secreT"], False),
        (["Basic secret"], False),
        (["Bearer secret", "Bearer secret"], False),
        ([], False),
        (["Bearer na\xefve"], False),
    ],
)
def test_only_the_same_bearer_token_has_access(values: list[str], has: bool) -> None:
    assert has_token(scope(*values), b"secret") is has
