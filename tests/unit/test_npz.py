"""Archives that numpy writes are read; all others raise NotAnArchive."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import numpy as np
import pytest

from tidegate.service.npz import NotAnArchive, read_npz


def member(header: bytes, data: bytes = b"", *, packed: bool = False) -> bytes:
    content = io.BytesIO()
    kind = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    with zipfile.ZipFile(content, "w", kind) as archive:
        size = len(header).to_bytes(2, "little")
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + size + header + data)
    return content.getvalue()


def header(descr: str = "'<f8'", shape: str = "(1,)") -> bytes:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_writes_is_read(save: Any) -> None:
    arrays = {
        "numbers": np.arange(6.0).reshape(2, 3),
        "columns": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "scalar": np.array(7),
        "texts": np.array(["one", "zwölf"]),
        "flags": np.array([True, False]),
        "none": np.zeros((0, 3), np.float32),
    }
    content = io.BytesIO()
    save(content, **arrays)

    found = read_npz(content.getvalue())

    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK",
        member(header(shape="(100000000000,)"), b"12345678"),
        member(header(shape="(" + "9" * 15 + ", " + "9" * 15 + ")")),
        member(header(shape="(-1,)"), b"12345678"),
        member(header("'|O8'"), b"12345678"),
        member(header("[('x', '<f8')]"), b"12345678"),
        member(header("'<f3'"), b"123"),
        member(header("'<U1'"), b"\xff\xff\xff\xff"),
        member(header("'<U0'"), b""),
        member(b"(" * 10_000),
        member(b"'unterminated"),
        member(header(), b"1234567"),
        member(header(shape="(200000000,)"), bytes(8 * 200), packed=True),
    ],
)
def test_content_that_is_no_array_is_rejected(content: bytes) -> None:
    with pytest.raises(NotAnArchive):
        read_npz(content)


def test_an_archive_larger_than_the_limit_is_not_unpacked() -> None:
    bomb = member(header("'|u1'", "(10000000,)"), bytes(10_000_000), packed=True)
    assert len(bomb) < 20_000

    with pytest.raises(NotAnArchive, match="larger than 1,000,000 bytes"):
        read_npz(bomb, most_bytes=1_000_000)


def test_an_encrypted_member_is_rejected() -> None:
    content = bytearray(member(header(), b"12345678"))
    content[content.index(b"PK\x01\x02") + 8] |= 1

    with pytest.raises(NotAnArchive, match="encrypted"):
        read_npz(bytes(content))


def test_a_missing_field_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="b"):
        read_npz(member(header(), b"12345678"), ["b"])
