"""Arrays in a bundle are read back unchanged; their bytes are independent of the Python release."""

import io
import zipfile

import numpy as np
import pytest

from tidegate.models.sealing.npz import npz


def test_numpy_reads_back_what_was_written() -> None:
    arrays = {"scores": np.linspace(-1, 1, 7), "names": np.array(["ä", "b"]), "none": np.empty(0)}

    with np.load(io.BytesIO(npz(arrays)), allow_pickle=False) as read:
        assert read.files == list(arrays)
        for name, array in arrays.items():
            assert read[name].dtype == array.dtype
            assert np.array_equal(read[name], array)


def test_the_archive_has_neither_a_date_nor_sizes_that_a_release_adds() -> None:
    """A stream is written with a header for 4 GB from Python 3.11.4 on, and without it before."""
    [member] = zipfile.ZipFile(io.BytesIO(npz({"a": np.arange(3)}))).infolist()

    assert member.date_time == (1980, 1, 1, 0, 0, 0)
    assert member.extract_version == zipfile.DEFAULT_VERSION
    assert member.compress_type == zipfile.ZIP_STORED


def test_objects_are_not_pickled() -> None:
    with pytest.raises(ValueError, match="Object arrays"):
        npz({"a": np.array([{}])})
