"""Read named tensors from a checkpoint file without running code in it."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tidegate.models.errors import BuildRefused
from tidegate.models.importers.class_words import class_words
from tidegate.models.importers.torch_runtime import require
from tidegate.models.importers.weight_sets import choose, first, rows_of, weight_sets

RANDOM = "The weights are random, not trained."  # a note for the card


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a file, and the sha256 of the file (of the tensors, if random)."""

    sets: Mapping[str, Mapping[str, Any]]  # by the entry that holds them, "" for the top level
    sha256: str
    key: str | None = None  # the user's choice among them
    labels: tuple[str, ...] | None = None  # the class names in the file, by class id
    arguments: Mapping[str, Any] = field(default_factory=dict)  # of the training program

    def classes(self, weight: str) -> int | None:
        """Return the number of classes of the classifier `weight`, or None if it is absent."""
        return rows_of(self.sets, weight)

    def fill(self, module: Any) -> tuple[str, ...]:
        """Load the tensors into a module with the same names and shapes; return what was chosen.

        The names may have a prefix, and the file may hold other tensors besides. Raises
        BuildRefused with the first missing, unexpected or differently shaped tensors, or if it is
        not clear which of several sets of weights is meant.
        """
        shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
        place, others = choose(self.sets, shapes, self.key, type(module).__name__)
        tensors = self.sets[place.entry]
        inner = {name: tensors.get(place.prefix + name) for name in shapes}
        filled = {name: tensor for name, tensor in inner.items() if tensor is not None}
        # `choose` allows only counters to be missing; those of the module itself stay.
        module.load_state_dict({**module.state_dict(), **filled}, strict=True)
        notes = []
        if place.name:
            notes.append(f"The weights are the checkpoint's entry `{place.name}`.")
        if others:
            notes.append(
                f"Other weights in the checkpoint were not used: {', '.join(others)}; "
                "--state-dict chooses others."
            )
        if place.left_out:
            notes.append(
                "Tensors of the checkpoint that are no part of the network were left out: "
                f"{first(place.left_out)}."
            )
        return tuple(notes)


def read(path: Path, key: str | None = None) -> Checkpoint:
    """Read a .safetensors file or a torch file of plain tensors.

    `key` names the weights to use if a file has several sets of them. Raises BuildRefused if the
    file is missing or damaged, contains objects that can only be loaded by running code, or has no
    weights.
    """
    if not path.is_file():
        raise BuildRefused(f"The checkpoint {path} does not exist.")
    content = _safetensors(path) if path.suffix == ".safetensors" else _torch_file(path)
    sets = weight_sets(content)
    if not sets:
        raise BuildRefused(f"{path} is not a state dict: it contains {_entries(content)}.")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return Checkpoint(sets, digest, key, class_words(content), _arguments(content))


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
    return Checkpoint({"": tensors}, digest.hexdigest())


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


def _arguments(content: Any) -> Mapping[str, Any]:
    """Return the command line that timm saves with the weights."""
    saved = content.get("args") if isinstance(content, Mapping) else None
    if isinstance(saved, argparse.Namespace):
        return vars(saved)
    return saved if isinstance(saved, Mapping) else {}


def _entries(content: Any) -> str:
    if isinstance(content, Mapping):
        return first(str(name) for name in content) or "nothing"
    return f"a {type(content).__name__}"
