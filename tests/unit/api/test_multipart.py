from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.service.api.multipart import FormFiles
from tidegate.service.errors import BadRequest

BOUNDARY = "multipart/form-data; boundary=x"


def part(content: bytes, name: str = "files", more: bytes = b"") -> bytes:
    head = f'--x\r\nContent-Disposition: form-data; name="{name}"'.encode() + more
    return head + b"\r\n\r\n" + content + b"\r\n"


def parse(body: bytes, content_type: str = BOUNDARY, most: int = 4, step: int = 0) -> list[bytes]:
    form = FormFiles(content_type, "files", most)
    step = step or len(body)
    for start in range(0, len(body), step):
        form.add(body[start : start + step])
    return form.files()


contents = st.lists(st.binary(max_size=60).filter(lambda c: b"\r\n--x" not in c), max_size=4)


@given(contents.filter(len), st.binary(max_size=20), st.integers(1, 40))
def test_the_contents_do_not_depend_on_how_the_body_is_split(
    contents: list[bytes], filename: bytes, step: int
) -> None:
    filename = filename.translate(None, b'\r\n"\\')
    named = b'; filename="' + filename + b'"'
    body = b"".join(part(c, more=named) + part(b"no image", name="other") for c in contents)

    assert parse(body + b"--x--\r\n", step=step) == contents


@given(st.binary(max_size=300), st.integers(1, 40))
def test_any_bytes_are_files_or_a_bad_request(noise: bytes, step: int) -> None:
    for body in (noise, part(noise), part(b"a") + noise + b"--x--"):
        with contextlib.suppress(BadRequest):
            assert all(isinstance(file, bytes) for file in parse(body or b"-", step=step))


@pytest.mark.lengthy
@given(st.text(max_size=60))
def test_any_content_type_is_understood_or_a_bad_request(tail: str) -> None:
    with contextlib.suppress(BadRequest):
        FormFiles("multipart/form-data;" + tail.encode("utf-8").decode("latin-1"), "files", 1)


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/form-data; boundary=abc", b"abc"),
        ('multipart/form-data; boundary="a b"', b"a b"),
        (r'multipart/form-data; boundary="a\"b"', b'a"b'),
        ("Multipart/Form-Data ;BOUNDARY=abc; charset=utf-8", b"abc"),
        ("multipart/form-data; charset=utf-8; boundary = abc", b"abc"),
        ('multipart/form-data; x="; boundary=no"; boundary=abc', b"abc"),
        ("multipart/form-data; x; boundary=abc; boundary=no", b"abc"),
        ("multipart/form-data; boundary=----=_Part:1/2?(3)", b"----=_Part:1/2?(3)"),
    ],
)
def test_a_boundary_is_read_as_clients_write_it(content_type: str, boundary: bytes) -> None:
    body = part(b"image").replace(b"--x", b"--" + boundary) + b"--" + boundary + b"--\r\n"

    assert parse(body, content_type) == [b"image"]


def test_an_empty_part_is_a_file_too() -> None:
    assert parse(part(b"a") + part(b"") + part(b"b") + b"--x--") == [b"a", b"", b"b"]


@pytest.mark.parametrize("line", [b"Content-Type: image/png", b"X-Any: fa\xe7ade", b"X: \x85\xa0"])
def test_other_headers_of_a_part_are_ignored(line: bytes) -> None:
    assert parse(part(b"a", more=b"\r\n" + line) + b"--x--") == [b"a"]


def test_a_preamble_and_an_epilogue_are_skipped() -> None:
    assert parse(b"hello\r\n" + part(b"a") + b"--x--\r\nbye", step=3) == [b"a"]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"--x--", "no part named"),
        (part(b"a", name="file") + b"--x--", 'no part named "files"'),
        (part(b"a"), "Unexpected end"),
        (part(b"a") * 5 + b"--x--", 'At most 4 parts named "files"'),
        (part(b"a", name="other") * 30 + b"--x--", "count"),
        (part(b"a", more=b"\r\nX: y" * 9) + b"--x--", "header count"),
        (part(b"a", more=b"x" * 5000) + b"--x--", "header length"),
        (part(b"a").replace(b"\r\n", b"\n") + b"--x--", "line break"),
        (part(b"a", name="") + b"--x--", "no name"),
        (b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--", "no name"),
        (b"--x\r\n\r\na\r\n--x--", "Content-Disposition"),
        (part(b"YQ==", more=b"\r\nContent-Transfer-Encoding: base64") + b"--x--", "Encoding"),
    ],
)
def test_the_error_describes_the_defect(body: bytes, why: str) -> None:
    with pytest.raises(BadRequest, match=why):
        parse(body)


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        'multipart/form-data; boundary=""',
        "multipart/mixed; boundary=x",
        "multipart/form-data; boundary=" + "x" * 257,
        "multipart/form-data; boundary=x;" + " " * 60_000,
    ],
)
def test_a_form_without_a_boundary_is_a_bad_request(content_type: str) -> None:
    with pytest.raises(BadRequest, match="boundary"):
        FormFiles(content_type, "files", 1)


def test_the_limit_on_files_is_named_in_the_right_number() -> None:
    two = part(b"a") + part(b"b") + part(b"c") + b"--x--"

    with pytest.raises(BadRequest, match='At most 1 part named "files"'):
        parse(two, most=1)
    with pytest.raises(BadRequest, match='At most 2 parts named "files"'):
        parse(two, most=2)


FILE = b'; filename="photo.jpg"'


def test_without_a_part_of_that_name_the_files_are_taken_whatever_their_names() -> None:
    body = part(b"a", "x", FILE) + part(b"no file", "y") + part(b"b", "y", FILE) + b"--x--"

    assert parse(body) == [b"a", b"b"]


@pytest.mark.parametrize("named_first", [True, False])
def test_a_part_of_that_name_excludes_other_files(named_first: bool) -> None:
    parts = [part(b"a"), part(b"b", "other", FILE)]

    assert parse(b"".join(parts if named_first else reversed(parts)) + b"--x--") == [b"a"]


def test_more_files_of_other_names_than_allowed_are_rejected() -> None:
    with pytest.raises(BadRequest, match='2 files and none is named "files"; at most 1'):
        parse(part(b"a", "x", FILE) + part(b"b", "y", FILE) + b"--x--", most=1)
