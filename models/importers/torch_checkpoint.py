"""Read named tensors from a checkpoint file without running code in it."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidegate.models.errors import BuildRefused
from tidegate.models.importers.torch_runtime import require

# Entries under which training programs store weights. If a file has several, the user must choose:
# averaged and last weights are two models.
_NESTS = ("state_dict_ema", "model_ema", "state_dict", "model", "model_state", "model_state_dict")
# Data-parallel wrappers, compiled modules, and Lightning, which calls the network `model`.
_PREFIXES = ("module.", "_orig_mod.", "model.")
_LISTED = 5


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of one model, and the sha256 of the file (of the tensors, if random)."""

    tensors: Mapping[str, Any]
    sha256: str
    note: str | None = None

    def classes(self, weight: str) -> int | None:
        """Return the number of classes of the classifier `weight`, or None if it is absent."""
        tensor = self.tensors.get(weight)
        return None if tensor is None else int(tensor.shape[0])

    def fill(self, module: Any) -> None:
        """Load the tensors into a module with exactly the same names and shapes.

        Raises BuildRefused with the first missing, unexpected or differently shaped tensors.
        """
        expected = module.state_dict()
        shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}
        # Old files lack these counters. Evaluation never reads them, and torch initialises them.
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
                f"The checkpoint does not match this {type(module).__name__}: "
                f"{'; '.join(problems)}. Give the model that was trained, and --classes if the "
                "number of classes differs."
            )
        module.load_state_dict(dict(self.tensors), strict=True)


def read(path: Path, key: str | None = None) -> Checkpoint:
    """Read a .safetensors file or a torch file of plain tensors, and unwrap the usual nesting.

    `key` names the entry to use if a file has several sets of weights.
    Raises BuildRefused if the file is missing or damaged, contains objects that can only be
    loaded by running code, or has several sets of weights without `key`.
    """
    if not path.is_file():
        raise BuildRefused(f"The checkpoint {path} does not exist.")
    content = _safetensors(path) if path.suffix == ".safetensors" else _torch_file(path)
    tensors, entry = _unwrap(content, key, path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    note = f"The weights are the checkpoint's entry `{entry}`." if entry else None
    return Checkpoint(tensors, digest, note)


def random(module: Any, size: tuple[int, int]) -> Checkpoint:
    """Return a module's own untrained weights; the digest is that of their values.

    The statistics of batch norms are first set from noise of `size` (height, width). Without that,
    untrained logits vanish or grow from layer to layer until only float32 rounding is compared.
    """
    _settle(module, size)
    digest = hashlib.sha256()
    tensors = module.state_dict()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return Checkpoint(tensors, digest.hexdigest(), "The weights are random, not trained.")


def classifier_weight(module: Any, classes: int) -> str | None:
    """Return the name of the last weight with one row per class, or None."""
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
        norm.momentum = None  # plain mean over batches
        norm.train()
    generator = torch.Generator().manual_seed(0)
    # Coarse noise too: photographs are mostly smooth, and norms of fine noise would amplify them.
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
        # timm stores the command line with the weights; a Namespace has attributes but no code.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many unrelated classes
        raise BuildRefused(
            f"{path} is damaged, or contains objects other than tensors, which are not unpickled "
            "because that runs code. Save only the weights in the project that trained the model: "
            "torch.save(model.state_dict(), 'weights.pt')."
        ) from error


def _unwrap(content: Any, key: str | None, path: Path) -> tuple[dict[str, Any], str | None]:
    """Return the tensors by name, and the entry they are in (None: the file's top level)."""
    found = content
    if key is not None:
        if not isinstance(content, Mapping) or key not in content:
            raise BuildRefused(f"{path} has no entry {key!r}; it contains {_entries(content)}.")
        found = content[key]
    elif isinstance(content, Mapping) and not _is_weights(content):
        held = [nest for nest in _NESTS if _is_weights(content.get(nest))]
        if len(held) > 1:
            raise BuildRefused(
                f"{path} contains several sets of weights: choose one with --state-dict "
                f"({', '.join(held)})."
            )
        if held:
            key, found = held[0], content[held[0]]
    if not _is_weights(found):
        raise BuildRefused(
            f"{path} is not a state dict: it contains {_entries(content)}. Give the entry with the "
            "weights as --state-dict."
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
    """Remove the prefixes that all names share, outermost first."""
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
