"""Read a legacy (non-zip) torch checkpoint without torch and without running code in it.

Layout, from torch/serialization.py (`_legacy_save`): three small pickles (magic number, protocol,
system info), the object, in which a tensor's data is a reference ("persistent id"), a pickled list
of storage keys, then for each key an int64 count and the raw little-endian numbers.
A pickle is a program. Here it may only build dictionaries of strided views on those numbers.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO, NoReturn

import numpy as np
from numpy.typing import NDArray

from tidegate.models.errors import BuildRefused

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
MAX_BYTES = 1 << 30
_REMEMBERING = ("PUT", "BINPUT", "LONG_BINPUT")
_TYPES = {
    "FloatStorage": np.dtype("<f4"),
    "DoubleStorage": np.dtype("<f8"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ByteStorage": np.dtype("u1"),
}


def read_checkpoint(content: bytes) -> dict[str, NDArray[Any]]:
    """Return the tensors of a checkpoint's state dictionary, by name, as contiguous arrays.

    Raises BuildRefused if `content` is not such a file or contains anything but tensors.
    """
    if len(content) > MAX_BYTES:
        raise BuildRefused(
            f"The checkpoint has {len(content):,} bytes; the limit is {MAX_BYTES:,}."
        )
    stream = io.BytesIO(content)
    try:
        _check_header(stream)
        state = _load(stream, objects=True)
        keys = _load(stream)
        if not isinstance(state, dict) or not isinstance(keys, list):
            raise BuildRefused("The checkpoint is not a dictionary of tensors.")
        storages = _read_storages(stream, keys, _types_of(state))
        return {str(name): _materialise(name, view, storages) for name, view in state.items()}
    except BuildRefused:
        raise
    except Exception as error:  # a malformed pickle raises many unrelated classes
        raise BuildRefused(f"The checkpoint cannot be read: {error!r}.") from error


@dataclass(frozen=True, slots=True)
class _Storage:
    key: str
    dtype: np.dtype[Any]


@dataclass(frozen=True, slots=True)
class _View:
    """A pickled tensor: a storage, and the offset and strides in it, in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Ordered(dict[Any, Any]):
    """Replaces collections.OrderedDict, without attributes that a pickle could set."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        """Drop the state, in which torch stores module versions."""


class _Callable:
    """The only function that a checkpoint may call; it has no attributes that could be changed."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., _View]) -> None:
        self._function = function

    def __call__(self, *arguments: Any) -> _View:
        return self._function(*arguments)

    def __setstate__(self, state: object) -> NoReturn:
        raise BuildRefused("The checkpoint tries to change the function that rebuilds tensors.")


class _AllowListed(pickle.Unpickler):
    """Allows only the names that a state dictionary needs."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return _Ordered
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _Callable(_rebuild)
        if module == "torch" and name in _TYPES:
            return _TYPES[name]
        raise BuildRefused(f"The checkpoint refers to {module}.{name}, which is not allowed.")


class _AllowListedObjects(_AllowListed):
    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _location, _numel, view = pid
        if kind != "storage" or view is not None or not isinstance(dtype, np.dtype):
            raise BuildRefused(f"The checkpoint has an unknown reference to data: {pid!r}.")
        return _Storage(str(key), dtype)


def _load(stream: BinaryIO, *, objects: bool = False) -> Any:
    _check_memo(stream)
    reader = _AllowListedObjects if objects else _AllowListed
    return reader(stream).load()


def _check_memo(stream: BinaryIO) -> None:
    """Check that no object is remembered under a large number: the list is allocated up to it."""
    start = stream.tell()
    for count, (operation, argument, _) in enumerate(pickletools.genops(stream)):
        if operation.name in _REMEMBERING and int(argument or 0) > count:
            raise BuildRefused("The checkpoint numbers its objects in another way than pickle.")
    stream.seek(start)


def _rebuild(
    storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: object
) -> _View:
    if not isinstance(storage, _Storage):
        raise BuildRefused("A tensor of the checkpoint has no storage.")
    return _View(storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))


def _check_header(stream: BinaryIO) -> None:
    if _load(stream) != MAGIC or _load(stream) != PROTOCOL:
        raise BuildRefused("This is not a legacy torch checkpoint.")
    if _load(stream).get("little_endian") is not True:
        raise BuildRefused("The checkpoint was not written on a little-endian machine.")


def _types_of(state: dict[Any, Any]) -> dict[str, np.dtype[Any]]:
    for name, view in state.items():
        if not isinstance(view, _View):
            raise BuildRefused(f"The checkpoint's {name!r} is not a tensor.")
    return {view.storage.key: view.storage.dtype for view in state.values()}


def _read_storages(
    stream: BinaryIO, keys: list[Any], types: dict[str, np.dtype[Any]]
) -> dict[str, NDArray[Any]]:
    storages = {}
    for key in keys:
        count = int.from_bytes(stream.read(8), "little")
        raw = stream.read(count * types[key].itemsize)  # returns at most the remaining bytes
        storages[key] = np.frombuffer(raw, types[key], count)
    return storages


def _materialise(name: str, view: _View, storages: dict[str, NDArray[Any]]) -> NDArray[Any]:
    numbers = storages[view.storage.key]
    if math.prod(view.shape) > len(numbers):  # a view that repeats numbers could exhaust the memory
        raise BuildRefused(f"The checkpoint's {name!r} is larger than its data.")
    last = view.offset + sum(
        (n - 1) * step for n, step in zip(view.shape, view.strides, strict=True)
    )
    if min((view.offset, *view.shape, *view.strides)) < 0 or last >= len(numbers):
        raise BuildRefused(f"The checkpoint's {name!r} extends beyond its data.")
    strides = tuple(step * numbers.itemsize for step in view.strides)
    window = np.lib.stride_tricks.as_strided(numbers[view.offset :], view.shape, strides)
    return np.ascontiguousarray(window).reshape(view.shape)
