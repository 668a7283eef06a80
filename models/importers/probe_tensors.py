"""What a team's own data loader made of the probe images, as the proof of a stated preprocessing.

`tidegate probe-images` writes the probes; the team's loader turns each into the network's input,
and `numpy.savez` stores these by the names of the files.
"""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tidegate.models.errors import BuildRefused
from tidegate.models.importers.base import Backend, Preprocessing
from tidegate.models.probes.probe_set import probe_set
from tidegate.service.imaging.spec import CentreCrop, CentreCropFraction, Grey, Pad, PreprocessSpec


class ProbeTensors:
    """A `SourceTransform`: the tensors that another program made of the probe images."""

    def __init__(self, path: Path, spec: PreprocessSpec) -> None:
        """Open the file. Raises BuildRefused if it is not an archive of arrays, or has no probe."""
        try:
            opened = np.load(path, allow_pickle=False)
        except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
            raise BuildRefused(f"--probe-tensors {path} cannot be read: {error}.") from error
        if not isinstance(opened, np.lib.npyio.NpzFile):
            raise BuildRefused(f"--probe-tensors {path} is one array: write it with numpy.savez.")
        self._tensors = opened
        self._spec = spec
        self._names = {_digest(file): name for name, file in probe_set().items()}
        known = [name for name in self._names.values() if name in opened]
        if not known:
            raise BuildRefused(
                f"--probe-tensors {path} has no tensor with the name of a probe image, such as "
                f"{next(iter(self._names.values()))!r}: `tidegate probe-images` writes the images."
            )
        self.library = f"the team's own data loader ({path.name}, {len(known)} tensors)"

    @property
    def backend(self) -> Backend:
        """Return the backend that the spec resizes with."""
        own = (CentreCrop, CentreCropFraction, Pad, Grey)
        resizes = [step.backend for step in self._spec.steps if not isinstance(step, own)]
        return resizes[0] if resizes else "pillow"

    def floats(self, file: bytes) -> NDArray[np.float32]:
        """Return the tensor of a probe image, float32 [3, H, W]."""
        tensor = np.asarray(self._tensors[self._names[_digest(file)]])
        if tensor.dtype != np.float32:
            raise ValueError(f"the tensor is {tensor.dtype}, not float32")
        if tensor.ndim == 4 and len(tensor) == 1:  # a batch of one
            tensor = tensor[0]
        if tensor.shape[:1] == (1,) and self._spec.is_grey:
            tensor = np.repeat(tensor, 3, axis=0)
        if tensor.ndim != 3 or len(tensor) != 3:
            raise ValueError(f"the tensor is {list(tensor.shape)}, not [3, height, width]")
        return tensor

    def pixels(self, file: bytes) -> NDArray[np.uint8]:
        """Return the whole pixel values that the tensor was made of, uint8 [H, W, 3]."""
        spec, tensor = self._spec, self.floats(file).astype(np.float64)
        shape = (3, 1, 1)
        levels = (tensor * np.reshape(spec.std, shape) + np.reshape(spec.mean, shape)) / spec.scale
        whole = np.clip(np.rint(levels), 0, 255)
        return np.asarray(whole.transpose(1, 2, 0), np.uint8)


def preprocessing(path: Path, spec: PreprocessSpec) -> Preprocessing:
    """Return `spec` with the tensors in `path` as its proof."""
    return Preprocessing(spec, ProbeTensors(path, spec))


def _digest(file: bytes) -> bytes:
    return hashlib.sha256(file).digest()
