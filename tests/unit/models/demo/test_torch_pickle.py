from __future__ import annotations

import pickle
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tidegate.models.demo.torch_pickle import MAGIC, PROTOCOL, read_checkpoint
from tidegate.models.errors import BuildRefused

ORDERED = b"ccollections\nOrderedDict\n"
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
DATA = np.arange(6, dtype="<f4")


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def integer(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def integers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(integer, values)) + b"t"


def tensor(
    shape: tuple[int, ...] = (2, 3),
    strides: tuple[int, ...] = (3, 1),
    offset: int = 0,
    storage: bytes = b"ctorch\nFloatStorage\n",
) -> bytes:
    """The opcodes with which torch.save writes one tensor on storage "k"."""
    identity = b"(" + text("storage") + storage + text("k") + text("cpu") + integer(6) + b"NtQ"
    placement = integer(offset) + integers(shape) + integers(strides)
    return REBUILD + b"(" + identity + placement + b"\x89" + ORDERED + b")RtR"


def state(value: bytes) -> bytes:
    """The opcodes of an OrderedDict with one entry, "x"."""
    return b"\x80\x02" + ORDERED + b")R(" + text("x") + value + b"u."


def checkpoint(objects: bytes, data: NDArray[Any] = DATA) -> bytes:
    header = [pickle.dumps(part, 2) for part in (MAGIC, PROTOCOL, {"little_endian": True})]
    storages = pickle.dumps(["k"], 2) + struct.pack("<q", len(data)) + data.tobytes()
    return b"".join(header) + objects + storages


def test_a_tensor_comes_back_with_its_numbers() -> None:
    tensors = read_checkpoint(checkpoint(state(tensor())))

    np.testing.assert_array_equal(tensors["x"], DATA.reshape(2, 3))


def test_strides_and_offset_are_applied() -> None:
    transposed = tensor(shape=(2, 2), strides=(1, 2), offset=1)

    tensors = read_checkpoint(checkpoint(state(transposed)))

    np.testing.assert_array_equal(tensors["x"], [[1, 3], [2, 4]])


def test_a_tensor_without_dimensions_is_one_number() -> None:
    tensors = read_checkpoint(checkpoint(state(tensor(shape=(), strides=(), offset=5))))

    assert tensors["x"].shape == ()
    assert tensors["x"] == 5


@pytest.mark.parametrize(
    "payload",
    [
        b"cos\nsystem\n(" + text("true") + b"tR",
        b"cposix\nsystem\n(" + text("true") + b"tR",
        b"cbuiltins\neval\n(" + text("1+1") + b"tR",
        b"cbuiltins\ngetattr\n(" + ORDERED + text("clear") + b"tR",
        text("os") + text("system") + b"\x93",
        b"ctorch\nload\n",
        b"ctorch.storage\n_load_from_bytes\n",
        b"(ios\nsystem\n",
        b"\x82\x01",
    ],
    ids=[
        "os.system",
        "posix.system",
        "eval",
        "getattr",
        "stack global",
        "torch.load",
        "load from bytes",
        "inst",
        "extension code",
    ],
)
def test_a_pickle_with_more_than_tensors_is_rejected(payload: bytes) -> None:
    with pytest.raises(BuildRefused):
        read_checkpoint(checkpoint(state(payload)))


def test_a_forbidden_name_is_in_the_error() -> None:
    with pytest.raises(BuildRefused, match=r"posix\.system"):
        read_checkpoint(checkpoint(state(b"cposix\nsystem\n(" + text("true") + b"tR")))


def test_the_function_that_rebuilds_tensors_cannot_be_changed() -> None:
    planted = REBUILD + b"}" + text("__code__") + text("x") + b"sb"

    with pytest.raises(BuildRefused, match="change the function"):
        read_checkpoint(checkpoint(state(planted)))


@pytest.mark.parametrize(
    "view",
    [
        tensor(shape=(7,), strides=(1,)),
        tensor(shape=(2, 3), strides=(3, 1), offset=1),
        tensor(shape=(2,), strides=(-1,), offset=5),
        tensor(shape=(1,), strides=(1,), offset=-1),
        tensor(shape=(100_000, 100_000), strides=(0, 0)),
    ],
    ids=["too long", "offset", "backwards", "before the start", "repeated without end"],
)
def test_a_view_outside_its_data_is_refused(view: bytes) -> None:
    with pytest.raises(BuildRefused, match="its data"):
        read_checkpoint(checkpoint(state(view)))


def test_something_else_than_tensors_is_refused() -> None:
    with pytest.raises(BuildRefused, match="not a tensor"):
        read_checkpoint(checkpoint(state(integer(3))))


def test_another_file_is_refused() -> None:
    with pytest.raises(BuildRefused):
        read_checkpoint(b"PK\x03\x04 a zip")


def test_an_object_with_a_large_number_takes_no_memory() -> None:
    content = checkpoint(state(tensor()))
    at = content.index(b"q\x01")  # the second object is remembered as number 1

    with pytest.raises(BuildRefused, match="numbers its objects"):
        read_checkpoint(content[:at] + b"r\xff\xff\xff\x7f" + content[at + 2 :])


@pytest.mark.lengthy
@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_damaged_file_is_refused_or_read_but_never_crashes(data: st.DataObject) -> None:
    content = bytearray(checkpoint(state(tensor())))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    stop = data.draw(st.integers(0, len(content)))

    try:
        tensors = read_checkpoint(bytes(content[:stop]))
    except BuildRefused:
        return
    assert all(isinstance(array, np.ndarray) for array in tensors.values())


def test_the_demo_checkpoint_has_its_296_arrays(weights: dict[str, NDArray[Any]]) -> None:
    assert len(weights) == 296
    assert weights["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert weights["_fc.weight"].shape == (1000, 1280)
    assert all(np.all(np.isfinite(array)) for array in weights.values())
