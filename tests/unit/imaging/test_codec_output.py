"""Codecs report only by exceptions: decoding writes nothing to the log or to stderr."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[3]

START = """
import logging
import numpy as np
from tidegate.service.imaging.codec_output import silence_codecs
from tests.unit.imaging import test_hostile_images as hostile

logging.basicConfig(level="WARNING")  # as the service has it
assert silence_codecs()
"""
DAMAGED_FILES = """
rng = np.random.default_rng(11)
for format in hostile.FORMATS:
    for data in hostile.variants(format):
        for damage in hostile.DAMAGES:
            for _ in range(20):
                hostile.outcome(damage(data, rng))
"""
# In each of libtiff's codecs; with the first, every row causes a warning.
A_THOUSAND_MESSAGES = """
from tests.unit.imaging.pictures import encode, noise
for compression, mode in {
    "group3": "1", "group4": "1", "tiff_lzw": "RGB", "packbits": "RGB", "jpeg": "RGB",
    "tiff_adobe_deflate": "RGB", "lzma": "RGB", "zstd": "RGB",
}.items():
    data = bytearray(encode(noise(300, 1_000).convert(mode), "TIFF", compression=compression))
    data[100:-2_000:7] = b"\\xa5" * len(data[100:-2_000:7])
    hostile.outcome(bytes(data))
"""
TOO_MANY_SAMPLES = """
from tests.unit.imaging.pictures import tiff
tags = {256: (3, [4]), 257: (3, [4]), 258: (3, [8]), 259: (3, [1]), 262: (3, [1])}
hostile.outcome(tiff(tags | {277: (3, [60_000]), 273: (4, [8]), 279: (4, [16])}, bytes(90)))
"""


# A separate process, with Python's default filters and its own stderr.
@pytest.mark.parametrize("files", [DAMAGED_FILES, A_THOUSAND_MESSAGES, TOO_MANY_SAMPLES])
def test_nothing_that_a_client_can_word_reaches_stderr(files: str) -> None:
    command = [sys.executable, "-W", "always", "-c", START + files + "print('done')"]

    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    assert (run.stdout, run.stderr) == ("done\n", "")


def test_a_process_whose_list_of_files_is_not_there_decodes_all_the_same() -> None:
    hidden = """
from pathlib import Path
from tidegate.service.imaging import codec_output
codec_output._MAPS = Path("/nowhere/maps")
assert not codec_output.silence_codecs()
from tests.unit.imaging.pictures import decoded, encode, noise
assert decoded(encode(noise(9, 5), "TIFF", compression="tiff_lzw")).shape == (5, 9, 3)
"""

    run = subprocess.run([sys.executable, "-c", hidden], cwd=ROOT, capture_output=True, text=True)

    assert (run.returncode, run.stderr) == (0, "")


def test_a_library_without_such_handlers_is_no_reason_to_fail() -> None:
    other = """
import ctypes.util
from tidegate.service.imaging.codec_output import _remove_handlers
assert not _remove_handlers(ctypes.util.find_library("m") or "libm.so.6")
assert not _remove_handlers("/nowhere/libtiff.so.6")
"""

    run = subprocess.run([sys.executable, "-c", other], cwd=ROOT, capture_output=True, text=True)

    assert (run.returncode, run.stderr) == (0, "")
