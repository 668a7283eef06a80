"""The network that is trained: a timm model with a new last layer, and what is trained of it."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidegate.models.errors import BuildRefused
from tidegate.models.importers import torch_checkpoint
from tidegate.models.importers.similar import similar
from tidegate.models.importers.timm_source import find
from tidegate.models.importers.torch_runtime import require
from tidegate.models.training.config import Optimisation
from tidegate.models.training.images import seed_of
from tidegate.models.training.recipe import Stage

_HEAD_SEED = 1  # a place of its own among the seeds


@dataclass(frozen=True)
class Network:
    """A timm model on the device that trains it."""

    name: str
    module: Any
    data_config: Mapping[str, Any]  # timm's, for evaluation at the size of training
    pretrained: bool
    notes: tuple[str, ...] = ()  # on the weights that were loaded

    @property
    def transformer(self) -> bool:
        """Return whether it is one: attention, and no batch norm."""
        kind = require("torch").nn.BatchNorm2d
        parts = list(self.module.modules())
        attention = any("Attention" in type(part).__name__ for part in parts)
        return attention and not any(isinstance(part, kind) for part in parts)

    def head_parameters(self) -> set[str]:
        """Return the names of the parameters of the last layer."""
        found = {id(p) for part in self._heads() for p in part.parameters()}
        return {name for name, p in self.module.named_parameters() if id(p) in found}

    @property
    def last_layer(self) -> Any:
        """Return the last layer, the first of several."""
        return self._heads()[0]

    def prepare(self, stage: Stage) -> None:
        """Freeze what the stage does not train, and set the modes of batch norm and dropout."""
        head = self.head_parameters()
        for name, parameter in self.module.named_parameters():
            parameter.requires_grad_(not stage.head_only or name in head)
        self.module.train(not stage.head_only)
        for part in self._heads():
            part.train()

    def optimiser(self, stage: Stage, chosen: Optimisation) -> Any:
        """Return timm's optimiser for a stage; each group has the factor `lr_scale` of its rate."""
        create = require("timm.optim").create_optimizer_v2
        decay = chosen.weight_decay
        common = {"opt": chosen.optimiser, "lr": chosen.rate, "weight_decay": decay}
        if stage.layer_decay:
            return create(self.module, layer_decay=stage.layer_decay, **common)
        return create(list(self._groups(stage, decay)), **common)

    def _groups(self, stage: Stage, decay: float) -> Iterator[dict[str, Any]]:
        """Yield head and backbone, each with and without weight decay."""
        head = self.head_parameters()
        exempt: set[str] = getattr(self.module, "no_weight_decay", set)()
        groups: dict[tuple[bool, bool], list[Any]] = {}
        for name, p in self.module.named_parameters():
            if p.requires_grad:
                decays = p.ndim > 1 and name not in exempt
                groups.setdefault((name in head, decays), []).append(p)
        for (is_head, decays), parameters in groups.items():
            yield {
                "params": parameters,
                "weight_decay": decay if decays else 0.0,
                "lr_scale": 1.0 if is_head else stage.backbone_rate,
            }

    def _heads(self) -> list[Any]:
        found = self.module.get_classifier()
        return list(found) if isinstance(found, list | tuple) else [found]


def create(name: str, classes: int, size: int | None, weights: Path | None, seed: int) -> Network:
    """Return the timm model `name` with a new last layer for `classes`, for images of `size`.

    Its other weights are those of the file `weights`, else random. Raises BuildRefused for an
    unknown name, weights that do not fit, or a size that the model does not take.
    """
    torch, timm = require("torch"), require("timm")
    find(name, None)  # says which names are similar
    notes: tuple[str, ...] = ()
    torch.manual_seed(seed_of(seed, _HEAD_SEED))
    try:
        if weights is None:
            module = _sized(timm.create_model(name, num_classes=classes), size)
        else:
            checkpoint = torch_checkpoint.read(weights)
            module = timm.create_model(name, num_classes=_classes(name, checkpoint))
            notes = checkpoint.fill(module)
            module = _sized(module, size)
            module.reset_classifier(classes)
        config = _data_config(module, size)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise BuildRefused(f"timm cannot create {name}: {str(error).rstrip('.')}.") from error
    _check_size(name, module, config["input_size"])
    return Network(name, module, config, weights is not None, notes)


def check_optimiser(name: str) -> None:
    """Raise BuildRefused if timm has no optimiser of this name."""
    known = require("timm.optim").list_optimizers()
    if name not in known:
        raise BuildRefused(
            f"optimisation.optimiser is {name!r}, which timm does not have{similar(name, known)}."
        )
    if require("timm.optim").get_optimizer_info(name).second_order:
        raise BuildRefused(
            f"optimisation.optimiser is {name!r}, which needs second derivatives: choose another."
        )


def save(network: Network, weights: Mapping[str, Any], classes: Sequence[str], to: Path) -> None:
    """Write the folder `to` as timm saves a model, so that it imports without options.

    It is complete or absent.
    """
    layout = require("torch").contiguous_format  # safetensors stores no other
    module = network.module.to("cpu", memory_format=layout).eval()
    module.load_state_dict(weights)
    for leftover in to.parent.glob(f".{to.name}-*"):  # of a process that was killed
        shutil.rmtree(leftover)
    draft = to.with_name(f".{to.name}-{os.getpid()}")
    require("timm.models").save_for_hf(
        module,
        str(draft),
        model_config={"label_names": list(classes)},
        safe_serialization=True,
        data_config=dict(network.data_config),
    )
    shutil.rmtree(to, ignore_errors=True)
    draft.rename(to)


def _check_size(name: str, module: Any, size: tuple[int, int, int]) -> None:
    torch = require("torch")
    try:
        with torch.inference_mode():
            module.eval()(torch.zeros(1, *size))
    except Exception as error:  # a network's own checks raise anything
        raise BuildRefused(
            f"{name} does not run on images of {size[1]} × {size[2]} pixels: {error}. Give "
            "another --size."
        ) from error


def _sized(module: Any, size: int | None) -> Any:
    """Return the module for images of `size`; one with learned positions is told, and resampled."""
    if size is not None and hasattr(module, "set_input_size"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of timm's resampling, about torch
            module.set_input_size(img_size=(size, size))
    return module


def _classes(name: str, checkpoint: Any) -> int:
    """Return the number of classes in the file, 0 for an encoder without a last layer."""
    layer = require("timm").get_pretrained_cfg_value(name, "classifier")
    first = layer[0] if isinstance(layer, list | tuple) else layer
    return (first and checkpoint.classes(f"{first}.weight")) or 0


def _data_config(module: Any, size: int | None) -> dict[str, Any]:
    """Return timm's data configuration, at the size of training and not at a larger test size."""
    options = {} if size is None else {"img_size": size}
    config: dict[str, Any] = require("timm.data").resolve_input_data_config(
        module, options, use_test_size=False
    )
    return config
