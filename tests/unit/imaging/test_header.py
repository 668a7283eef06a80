"""The header gives an image's kind, size and cost; an image that costs too much is rejected."""

from __future__ import annotations

import contextlib
import itertools
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL.PngImagePlugin import PngInfo

from load_tests.fuzz.worst import ACCEPTED, NEAR, jpeg_of_scans, near, worst
from tests.unit.imaging.pictures import FORMATS, encode, encode_any, noise, spec, tiff
from tests.unit.imaging.test_hostile_images import DAMAGES, Damage, variants
from tidegate.service.errors import ImageTooLarge, UndecodableImage, UnsupportedImageType
from tidegate.service.imaging.geometry import Size
from tidegate.service.imaging.header import inspect
from tidegate.service.imaging.preprocess import inspect_upload, inspector, preprocess
from tidegate.service.imaging.spec import PreprocessSpec
from tidegate.service.pipeline import _LARGE_INTERPRETER_S, _LARGE_S

ROOT = Path(__file__).parents[3]
PIXELS = 25_000_000


def any_size(size: Size) -> None:
    """Accept every size."""


def gif_of_a_huge_frame(disposal: int) -> bytes:
    """Return a GIF of 43 bytes whose frame, 65535 × 65535, Pillow allocates on opening."""
    control = b"!\xf9\x04" + bytes((disposal << 2 | 1, 0, 0, 0)) + b"\0"
    frame = b"," + struct.pack("<HHHHB", 0, 0, 65_535, 65_535, 0) + b"\x02\x02\x44\x01\0;"
    return b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0, 0, 0) + control + frame


def arithmetic(data: bytes) -> bytes:
    return data.replace(b"\xff\xc0", b"\xff\xc9", 1)


@pytest.mark.parametrize("format", FORMATS)
def test_kind_and_size_are_those_of_the_file(format: str) -> None:
    header = inspect(encode_any(noise(50, 40), format), any_size)

    assert (header.kind, header.size) == (format, (50, 40))
    assert 0 < header.work.interpreter_s <= header.work.seconds < 0.01


@pytest.mark.parametrize("disposal", [2, 3])
def test_a_gif_s_frame_is_checked_before_pillow_fills_it(disposal: int) -> None:
    with pytest.raises(ImageTooLarge, match="65535 × 65535"):
        preprocess(gif_of_a_huge_frame(disposal), spec(), PIXELS)


def test_an_inspector_remembers_only_the_sizes_that_it_has_accepted() -> None:
    rules, most = spec(), 64 * 64
    header_of = inspector(rules, most)
    fits, too_large = (encode(noise(side, side), "JPEG") for side in (64, 65))

    for _ in range(3):
        assert header_of(fits) == inspect_upload(fits, rules, most)
        with pytest.raises(ImageTooLarge, match="65 × 65"):
            header_of(too_large)


def test_arithmetic_coding_is_rejected_by_name() -> None:
    with pytest.raises(UnsupportedImageType, match="Arithmetic-coded JPEG"):
        preprocess(arithmetic(encode(noise(16, 16), "JPEG")), spec(), PIXELS)


def test_arithmetic_or_progressive_jpeg_inside_tiff_is_rejected_by_name() -> None:
    data = encode(noise(64, 64), "TIFF", compression="jpeg")
    assert preprocess(data, spec(), PIXELS).shape == (8, 8, 3)

    for marker in (b"\xff\xc2", b"\xff\xc9", b"\xff\xca"):
        with pytest.raises(UnsupportedImageType, match="progressive or arithmetic"):
            preprocess(data.replace(b"\xff\xc0", marker), spec(), PIXELS)


@pytest.mark.parametrize("tag", [258, 273, 279, 324, 325])
def test_a_repeated_list_of_a_tiff_is_not_read(tag: int) -> None:
    fillers = {70 + more: (4, [1]) for more in range(180)}
    data = bytearray(tiff({256: (4, [1]), 257: (4, [1]), tag: (4, [1] * 20_000)} | fillers))
    entry = data.index(struct.pack("<HHI", tag, 4, 20_000))
    data[10 : 10 + 12 * 180] = 180 * data[entry : entry + 12]

    with pytest.raises(UndecodableImage, match=f"contains tag {tag} more than once"):
        inspect(bytes(data), any_size)


def test_many_scans_of_many_pixels_are_too_much_work() -> None:
    small = jpeg_of_scans(64, 64)
    frame = small.index(b"\xff\xc2") + 5
    large = small[:frame] + struct.pack(">HH", 5_000, 5_000) + small[frame + 4 :]

    assert preprocess(small, spec(), PIXELS).shape == (8, 8, 3)
    with pytest.raises(ImageTooLarge, match=r"too much work \(64 scans of 25.0 megapixels\)"):
        preprocess(large, spec(), PIXELS)


def test_scans_far_on_in_a_file_count_as_work() -> None:
    small = jpeg_of_scans(64, 64)
    frame = small.index(b"\xff\xc2") + 5
    large = small[:frame] + struct.pack(">HH", 5_000, 5_000) + small[frame + 4 :]
    first = small.index(b"\xff\xda", small.index(b"\xff\xda") + 2)
    filled = large[:first] + bytes(1 << 20) + large[first:]

    with pytest.raises(ImageTooLarge, match="64 scans"):
        preprocess(filled, spec(), PIXELS)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("format", FORMATS)
def test_a_damaged_header_is_read_or_rejected(format: str, damage: Damage) -> None:
    rng = np.random.default_rng(3)
    for data in variants(format):
        for _ in range(60):
            with contextlib.suppress(UndecodableImage, UnsupportedImageType, ImageTooLarge):
                assert inspect_upload(damage(data, rng), spec(), PIXELS).kind == format


MEASURE = """
import ctypes, sys
from tidegate.service.imaging.preprocess import inspect_upload, preprocess
from tests.unit.imaging.pictures import spec
from load_tests.fuzz.worst import ACCEPTED, worst

def status(name):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(name))

rules = spec(alpha="composite-white")
for name in ACCEPTED:
    worst(name, 40)
for name in ACCEPTED:
    data = worst(name, 1500)
    preprocess(worst(name, 40), rules, 25_000_000)
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w") as marks:
        marks.write("5")
    before = status("VmRSS")
    preprocess(data, rules, 25_000_000)
    peak = (status("VmHWM") - before) * 1024
    print(name, peak, inspect_upload(data, rules, 25_000_000).work.peak_bytes)
"""


@pytest.mark.lengthy
@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
def test_the_estimate_bounds_the_memory_that_decoding_takes() -> None:
    run = subprocess.run([sys.executable, "-c", MEASURE], cwd=ROOT, capture_output=True, text=True)

    peaks = [line.split() for line in run.stdout.splitlines()]
    assert [name for name, _, _ in peaks] == list(ACCEPTED), run.stderr
    for name, peak, estimate in peaks:
        assert int(peak) <= int(estimate), name
        assert int(estimate) <= 24 * 1500 * 1500 + (1 << 22), name


@pytest.mark.parametrize("name", ACCEPTED)
def test_the_worst_files_pass_the_bound(name: str) -> None:
    data = worst(name, 300)

    assert inspect_upload(data, spec(), PIXELS).work.seconds < 1.5


@pytest.mark.slow
@pytest.mark.parametrize("name", ACCEPTED)
def test_the_worst_files_are_accepted_in_their_whole_size(name: str) -> None:
    data = worst(name)

    assert len(data) <= 16 << 20
    work = inspect_upload(data, spec(), PIXELS).work
    assert work.seconds > _LARGE_S or work.interpreter_s > _LARGE_INTERPRETER_S


@pytest.mark.parametrize("name", NEAR)
def test_the_files_near_the_bound_are_decoded_with_the_small_ones(name: str) -> None:
    """A more expensive image would go to a decoder process."""
    work = inspect_upload(near(name), spec(), PIXELS).work

    assert 0.85 < max(work.seconds / _LARGE_S, work.interpreter_s / _LARGE_INTERPRETER_S) <= 1


@pytest.mark.slow
def test_estimates_rank_files_as_measurements_do() -> None:
    files = [worst(name, 1500) for name in ACCEPTED] + [encode(noise(90, 90), "JPEG")]
    rules = spec(alpha="composite-white")
    measured = [min(cpu_s(data, rules) for _ in range(4)) for data in files]
    estimated = [inspect_upload(data, rules, PIXELS).work.seconds for data in files]

    pairs = list(itertools.permutations(range(len(files)), 2))
    far_apart = [(a, b) for a, b in pairs if measured[a] > 4 * measured[b]]

    assert len(far_apart) > 10
    assert all(estimated[a] > estimated[b] for a, b in far_apart)


def cpu_s(data: bytes, rules: PreprocessSpec) -> float:
    start = time.thread_time()
    preprocess(data, rules, PIXELS)
    return time.thread_time() - start


def test_texts_that_inflate_count_as_time_with_the_interpreter() -> None:
    texts = PngInfo()
    for index in range(28):
        texts.add_text(f"key{index}", "x" * 1_000_000, zip=True)
    data = encode(noise(8, 8), "PNG", pnginfo=texts)

    assert len(data) < 50_000
    assert inspect(data, lambda size: None).work.interpreter_s > 0.03
    assert inspect(encode(noise(8, 8), "PNG"), lambda size: None).work.interpreter_s < 0.001
