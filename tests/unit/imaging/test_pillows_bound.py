"""Pillow's own limit on pixels: the second line of defence, in each decoding process."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.unit.imaging.pictures import FORMATS, encode_any, noise, spec
from tidegate.service.errors import ImageTooLarge
from tidegate.service.imaging import header
from tidegate.service.imaging.decode import Size, bound_pillow, decode
from tidegate.service.imaging.work import Found, Work

ROOT = Path(__file__).parents[3]


def any_size(size: Size) -> None:
    """Accept every size."""


@pytest.fixture
def bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # restored afterwards
    bound_pillow(1_000)


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("size", [(40, 26), (300, 200)], ids=["a little more", "far more"])
def test_pillow_rejects_a_size_that_the_header_check_misses(format: str, size: Size) -> None:
    assert decode(encode_any(noise(40, 25), format), spec(), any_size).size == (40, 25)

    with pytest.raises(ImageTooLarge, match="more pixels than its header declares"):
        decode(encode_any(noise(*size), format), spec(), any_size)


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("screen", [(4, 4), (300, 200)])
def test_pillow_does_not_allocate_a_frame_that_the_header_check_misses(
    screen: Size, monkeypatch: pytest.MonkeyPatch
) -> None:
    control = b"!\xf9\x04\x09\0\0\0\0"  # disposal: the frame's rectangle is filled
    whole = encode_any(noise(300, 200), "GIF")
    start = whole.index(b",\0\0\0\0")
    data = whole[:6] + struct.pack("<HH", *screen) + whole[10:start] + control + whole[start:]
    blind = Found(((1, 1),), Work(0.0, 0.0, 0))
    monkeypatch.setitem(header._READERS, "GIF", lambda data: blind)
    monkeypatch.setattr("PIL.Image.core.fill", lambda *_: pytest.fail("filled"))

    with pytest.raises(ImageTooLarge):
        decode(data, spec(), any_size)


START_THE_SERVICE = """
from PIL import Image
from tidegate.service import app
from tidegate.service.settings import Settings

def listen(settings):
    print(Image.MAX_IMAGE_PIXELS)
    raise SystemExit

app._listen = listen
app.run(Settings(bundle="none", max_image_pixels=12_345))
"""
START_A_DECODER = """
import json, os, socket
from PIL import Image
from tidegate.service.imaging import decoder_messages, decoder_process
from tests.unit.imaging.pictures import spec

def preprocess(data, rules, max_image_pixels):
    print(Image.MAX_IMAGE_PIXELS)
    raise SystemExit

decoder_process.preprocess = preprocess
ours, its = socket.socketpair()
settings = {"max_image_pixels": 12_345}
decoder_messages.send(ours, json.dumps(settings | {"memory_bytes": 1 << 30}).encode())
decoder_messages.send(ours, spec().model_dump_json().encode())
decoder_messages.send(ours, b"an image")
decoder_process.main(os.dup(its.fileno()))
"""


@pytest.mark.lengthy
@pytest.mark.skipif(sys.platform != "linux", reason="decoder processes are Linux's")
@pytest.mark.parametrize("start", [START_THE_SERVICE, START_A_DECODER], ids=["service", "decoder"])
def test_each_decoding_process_sets_pillow_s_limit(start: str) -> None:
    run = subprocess.run([sys.executable, "-c", start], cwd=ROOT, capture_output=True, text=True)

    assert run.stdout == "12345\n", run.stderr


@pytest.mark.lengthy
def test_pillow_s_bomb_warning_is_an_error_without_pytest() -> None:
    code = """
from tidegate.service.errors import ImageTooLarge
from tidegate.service.imaging.decode import bound_pillow, decode
from tests.unit.imaging.pictures import encode, noise, spec

bound_pillow(1_000)
try:
    decode(encode(noise(40, 26), "PNG"), spec(), lambda size: None)
except ImageTooLarge:
    print("refused")
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)

    assert run.stdout == "refused\n", run.stderr
