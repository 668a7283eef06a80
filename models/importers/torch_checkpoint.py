"""A checkpoint file to named tensors, without running what is in it."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidegate.models.errors import BuildRefused
from tidegate.models.importers.torch_runtime import require

# Where training programs keep the weights. More than one of these in a file is a choice to make:
# the averaged weights and the last ones are two models.
_NESTS = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state", "model_state_dict")
# Data-parallel wrappers, compiled modules, and Lightning, which calls the network `model`.
_PREFIXES = ("module.", "_orig_mod.", "model.")
_LISTED = 5


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of one model and the sha256 of the file, or of the tensors when made here."""

    tensors: Mapping[str, Any]
    sha256: str
    note: str | None = None

    def classes(self, weight: str) -> int | None:
        """Return how many classes the classifier `weight` gives, None where it is not there."""
        tensor = self.tensors.get(weight)
        return None if tensor is None else int(tensor.shape[0])

    def fill(self, module: Any) -> None:
        """Load the tensors into a module of exactly the same names and shapes.

        Raises BuildRefused naming the first that are missing, unexpected or of another shape.
        """
        expected = module.state_dict()
        shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}
        # Old files lack these counters, which evaluation never reads; torch supplies them.
        missing = [
            name
            for name in shapes
            if name not in self.tensors and not name.endswith("num_batches_tracked")
        ]
        unexpected = [name for name in self.tensors if name not in shapes]
        other = [
            f"{name} {tuple(tensor.shape)} for {shapes[name]}"
            for name, tensor in self.tensors.items()
            if name in shapes and tuple(tensor.shape) != shapes[name]
        ]
        problems = [
            f"{what}: {_first(names)}"
            for what, names in (
                ("missing", missing),
                ("unexpected", unexpected),
                ("of another shape", other),
            )
            if names
        ]
        if problems:
            raise BuildRefused(
                f"The checkpoint is not of this {type(module).__name__}: {'; '.join(problems)}. "
                "State the model it was trained as, and --classes if the head differs."
            )
        module.load_state_dict(dict(self.tensors), strict=True)


def read(path: Path, key: str | None = None) -> Checkpoint:
    """Read .safetensors, or a torch file of plain tensors, and unwrap the usual nesting.

    `key` names the entry to take where a file holds more than one set of weights.
    Raises BuildRefused when the file is missing, damaged, holds objects that only run code could
    make, or does not say which weights are meant.
    """
    if not path.is_file():
        raise BuildRefused(f"There is no checkpoint {path}.")
    content = _safetensors(path) if path.suffix == ".safetensors" else _torch_file(path)
    tensors, taken = _unwrap(content, key, path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    note = f"Of the checkpoint's entries, `{taken}` was taken." if taken else None
    return Checkpoint(tensors, digest, note)


def random(module: Any, size: tuple[int, int]) -> Checkpoint:
    """Return a module's own, untrained weights, identified by their values.

    Batch norms take their statistics from noise of `size` (height, width) first. Without that,
    untrained logits vanish or grow by layers until float32 rounding is all that is compared.
    """
    _settle(module, size)
    digest = hashlib.sha256()
    tensors = module.state_dict()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return Checkpoint(tensors, digest.hexdigest(), "The weights are random: nothing is trained.")


def classifier_weight(module: Any, classes: int) -> str | None:
    """Return the name of the last weight with one row a class, None when there is none."""
    names = [
        name
        for name, tensor in module.state_dict().items()
        if name.endswith(".weight") and tensor.ndim >= 2 and tensor.shape[0] == classes
    ]
    return names[-1] if names else None


def _settle(module: Any, size: tuple[int, int]) -> None:
    torch = require("torch")
    kind = torch.nn.modules.batchnorm._BatchNorm
    norms = [part for part in module.eval().modules() if isinstance(part, kind)]
    if not norms:
        return
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean of what is seen
        norm.train()
    generator = torch.Generator().manual_seed(0)
    # Coarse noise too: photographs are mostly smooth, and a norm that never saw that lets it grow.
    images = [
        torch.nn.functional.interpolate(
            torch.randn(2, 3, *(max(2, side // grain) for side in size), generator=generator),
            size,
            mode="bilinear",
        )
        for grain in (1, 4, 16, 64)
    ]
    with torch.no_grad():
        module(torch.cat(images))
    module.eval()


def _safetensors(path: Path) -> Any:
    try:
        return require("safetensors.torch").load_file(path)
    except require("safetensors").SafetensorError as error:
        raise BuildRefused(f"{path} is damaged: {error}.") from error


def _torch_file(path: Path) -> Any:
    torch = require("torch")
    try:
        # timm keeps the command line beside the weights; a Namespace is attributes, no code.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises anything: pickle's, zip's, its own, KeyError
        raise BuildRefused(
            f"{path} is damaged or more than tensors, and objects are not unpickled here because "
            "that runs code. In the project that made it, write the weights alone: "
            "torch.save(model.state_dict(), 'weights.pt')."
        ) from error


def _unwrap(content: Any, key: str | None, path: Path) -> tuple[dict[str, Any], str | None]:
    """Return the tensors by name and the entry they were found under, None for the file itself."""
    found = content
    if key is not None:
        if not isinstance(content, Mapping) or key not in content:
            raise BuildRefused(f"{path} has no entry {key!r}; it has {_entries(content)}.")
        found = content[key]
    elif isinstance(content, Mapping) and not _is_weights(content):
        held = [nest for nest in _NESTS if _is_weights(content.get(nest))]
        if len(held) > 1:
            raise BuildRefused(
                f"{path} holds several weights: state which with --state-dict, "
                f"one of {', '.join(held)}."
            )
        if held:
            key, found = held[0], content[held[0]]
    if not _is_weights(found):
        raise BuildRefused(
            f"{path} is no state dict: it holds {_entries(content)}. State the entry with the "
            "weights with --state-dict."
        )
    return _without_prefixes(found), key


def _is_weights(content: Any) -> bool:
    tensor = require("torch").Tensor
    return (
        isinstance(content, Mapping)
        and bool(content)
        and all(isinstance(value, tensor) for value in content.values())
    )


def _without_prefixes(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Remove the prefixes that every name has, outermost first."""
    plain = dict(tensors)
    while True:
        shared = [prefix for prefix in _PREFIXES if all(name.startswith(prefix) for name in plain)]
        if not shared:
            return plain
        plain = {name.removeprefix(shared[0]): tensor for name, tensor in plain.items()}


def _entries(content: Any) -> str:
    if isinstance(content, Mapping):
        return _first([str(name) for name in content]) or "nothing"
    return f"a {type(content).__name__}"


def _first(names: Iterable[str]) -> str:
    listed = list(names)
    more = len(listed) - _LISTED
    return ", ".join(listed[:_LISTED]) + (f" and {more} more" if more > 0 else "")
