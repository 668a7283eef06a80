from __future__ import annotations

from pathlib import Path

from load_tests.overhead.keys import with_key, write_keys
from tidegate.service.api.access import credentials
from tidegate.service.api.keys import parse_keys


def test_the_key_is_in_the_head_and_the_last_one_of_the_file(tmp_path: Path) -> None:
    ring = parse_keys(write_keys(tmp_path / "keys", 3).read_bytes())
    head, _, body = with_key(b"POST / HTTP/1.1\r\nHost: a\r\n\r\nbody\r\n\r\n").partition(
        b"\r\n\r\n"
    )
    fields = [line.split(b": ", 1) for line in head.split(b"\r\n")[1:]]

    (key,) = credentials({"headers": [(name.lower(), value) for name, value in fields]})

    assert ring.find(key) == ring.clients[-1]
    assert len(ring.clients) == 3
    assert body == b"body\r\n\r\n"
