"""A unix socket has its permissions from the start, and replaces only what nobody uses."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from tidegate.service.unix_socket import listen_unix, remove_unix


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tidegate.sock"


def connect(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(os.fspath(path))


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_the_socket_has_its_permissions_and_takes_connections(path: Path, mode: int) -> None:
    with listen_unix(path, mode):
        connect(path)

        assert stat.S_IMODE(path.stat().st_mode) == mode


def test_the_socket_of_a_dead_process_is_replaced(path: Path) -> None:
    listen_unix(path, 0o600).close()
    assert path.exists()

    with listen_unix(path, 0o600):
        connect(path)


def test_the_socket_of_a_living_process_is_left_alone(path: Path) -> None:
    with listen_unix(path, 0o600):
        with pytest.raises(OSError, match="another process"):
            listen_unix(path, 0o600)

        connect(path)


def test_a_file_that_is_no_socket_is_left_alone(path: Path) -> None:
    path.write_text("notes")

    with pytest.raises(OSError, match="not a socket"):
        listen_unix(path, 0o600)

    assert path.read_text() == "notes"


def test_a_path_that_is_too_long_is_named_so(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="107 bytes"):
        listen_unix(tmp_path / ("x" * 108), 0o600)


def test_the_path_is_removed_at_the_end(path: Path) -> None:
    with listen_unix(path, 0o600) as listener:
        remove_unix(listener)

    assert not path.exists()


def test_the_umask_is_as_before(path: Path) -> None:
    before = os.umask(0o027)
    try:
        with listen_unix(path, 0o666):
            assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
