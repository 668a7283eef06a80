"""What a training step learns from a teacher: soft labels, features and attention."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.models.errors import BuildRefused
from tidegate.models.graphs.spatial_maps import Grid
from tidegate.models.importers.base import Imported
from tidegate.models.importers.torch_runtime import require
from tidegate.models.training.config import TrainConfig
from tidegate.models.training.distil_config import Distillation
from tidegate.models.training.images import seed_of
from tidegate.models.training.network import Network
from tidegate.models.training.teacher import Taught, Teacher, grids_of

_PLACE = 6  # among the seeds
_LEAST_GRIDS = 2  # in common; fewer suggest that one of the networks has no stages


@dataclass(frozen=True)
class Lesson:
    """A teacher and what is learned from it, for all stages of a training."""

    source: Imported
    chosen: Distillation
    grids: tuple[Grid, ...] = ()  # of the attention transfer

    @classmethod
    def of(cls, source: Imported, chosen: Distillation, student: Network) -> Lesson:
        """Raise BuildRefused if the networks do not have what is to be transferred."""
        if not chosen.attention:
            return cls(source, chosen)
        of_teacher, of_student = grids_of(source), _grids(student)
        common = tuple(grid for grid in of_student if grid in of_teacher)
        if len(common) < _LEAST_GRIDS:
            raise BuildRefused(
                f"Attention transfer compares maps of the same size, and needs {_LEAST_GRIDS} "
                f"sizes in common: the teacher has {_words(of_teacher)}, and {student.name} has "
                f"{_words(of_student)}. Leave --attention out, or give another --size."
            )
        return cls(source, chosen, common)


class Transfer:
    """The loss of one stage with a teacher, and the projection that is trained with it.

    α·T²·KL(teacher ‖ student, both at temperature T) + (1 − α)·(loss of the true classes), as of
    Hinton et al. 2015; and, with their weights, the squared distances between the directions of the
    teacher's features and the projected ones of the student, and between their attention maps.
    """

    def __init__(
        self, lesson: Lesson, network: Network, *, head_only: bool, device: str, config: TrainConfig
    ) -> None:
        self._torch = require("torch")
        self._network, self._device, self._chosen = network, device, lesson.chosen
        self._grids = () if head_only else lesson.grids
        self._teacher = Teacher(lesson.source, self._grids, config.threads)
        self._projection = None
        if lesson.chosen.features and not head_only:
            self._torch.manual_seed(seed_of(config.seed, _PLACE))
            widths = _width(network, device), _features(lesson.source)
            self._projection = self._torch.nn.Linear(*widths, bias=False).to(device)

    @property
    def parameters(self) -> Sequence[Any]:
        """Return what is trained in addition to the student."""
        return [] if self._projection is None else list(self._projection.parameters())

    def loss(self, images: Any, run: Callable[[Any], Any], of_truth: Callable[[Any], Any]) -> Any:
        """Return the mean loss of a batch of the student's input, [B, 3, H, W].

        `run` returns the student's logits, `of_truth` the loss of the true classes for logits.
        """
        taught = self._teacher.see(self._views(images))
        with _tapped(self._network, self._grids) as taps:
            logits = run(images).float()
        alpha = self._chosen.alpha
        total = alpha * self._soft(logits, taught)
        if alpha < 1:
            total = total + (1 - alpha) * of_truth(logits)
        if self._projection is not None:
            projected = self._projection(taps.features.float())
            total = total + self._chosen.features * self._apart(projected, taught.features)
        for grid, wanted in zip(self._grids, taught.attention, strict=True):
            strength = taps.maps[grid].float().square().sum(dim=1).flatten(1)
            part = self._chosen.attention / len(self._grids)
            total = total + part * self._apart(strength, wanted)
        return total

    def state(self) -> dict[str, Any]:
        """Return everything that later steps depend on."""
        return {} if self._projection is None else dict(self._projection.state_dict())

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state` returned."""
        if self._projection is not None:
            self._projection.load_state_dict(state)

    def _views(self, images: Any) -> NDArray[np.uint8]:
        """Return the student's input as images [B, H, W, 3]."""
        config = self._network.data_config
        mean, std = (
            self._torch.tensor(config[name], device=images.device).view(-1, 1, 1)
            for name in ("mean", "std")
        )
        levels = ((images.float() * std + mean) * 255).round().clamp(0, 255).byte()
        views: NDArray[np.uint8] = levels.permute(0, 2, 3, 1).contiguous().cpu().numpy()
        return views

    def _soft(self, logits: Any, taught: Taught) -> Any:
        functional, t = self._torch.nn.functional, self._chosen.temperature
        wanted = self._torch.from_numpy(taught.logits).to(self._device)
        return t**2 * functional.kl_div(
            functional.log_softmax(logits / t, dim=1),
            functional.log_softmax(wanted / t, dim=1),
            reduction="batchmean",
            log_target=True,
        )

    def _apart(self, found: Any, wanted: NDArray[np.float32]) -> Any:
        """Return the mean squared distance between directions, 0 to 4; both are [B, n]."""
        normalize = self._torch.nn.functional.normalize
        goal = normalize(self._torch.from_numpy(wanted).to(self._device), dim=1)
        return (normalize(found, dim=1) - goal).square().sum(dim=1).mean()


@dataclass
class _Taps:
    """What the student computed inside, in one pass."""

    features: Any = None  # [B, D], the input of its last layer
    maps: dict[Grid, Any] = field(default_factory=dict)  # [B, C, h, w], the last of each grid


@contextlib.contextmanager
def _tapped(network: Network, grids: Sequence[Grid] | None) -> Iterator[_Taps]:
    """Yield what the passes inside the block leave; None as `grids` wants every map."""
    taps = _Taps()

    def keep_features(module: Any, given: tuple[Any, ...]) -> None:
        taps.features = given[0].flatten(1)

    def keep_map(channels: int, module: Any, given: Any, found: Any) -> None:
        placed = _with_channels_first(found, channels)
        if placed is not None:
            grid = (int(placed.shape[2]), int(placed.shape[3]))
            if grids is None or grid in grids:
                taps.maps[grid] = placed

    hooks = [network.last_layer.register_forward_pre_hook(keep_features)]
    if grids is None or grids:
        inside = dict(network.module.named_modules())
        hooks += [
            inside[stage["module"]].register_forward_hook(partial(keep_map, stage["num_chs"]))
            for stage in _stages(network)
            if stage["module"] in inside
        ]
    try:
        yield taps
    finally:
        for hook in hooks:
            hook.remove()


def _stages(network: Network) -> list[dict[str, Any]]:
    """Return timm's description of the ends of the network's stages."""
    found = getattr(network.module, "feature_info", None) or []
    return [dict(stage) for stage in getattr(found, "info", found)]


def _with_channels_first(found: Any, channels: int) -> Any:
    """Return a map as [B, C, h, w]; None for anything else, such as tokens."""
    if getattr(found, "ndim", 0) != 4:
        return None
    if found.shape[1] == channels:
        return found
    return found.permute(0, 3, 1, 2) if found.shape[3] == channels else None


def _seen(network: Network, device: str = "cpu") -> _Taps:
    """Return what the network computes inside for an empty image."""
    torch, module = require("torch"), network.module.to(device)
    training = module.training
    with torch.inference_mode(), _tapped(network, None) as taps:
        module.eval()(torch.zeros(1, *network.data_config["input_size"], device=device))
    module.train(training)
    return taps


def _grids(network: Network) -> tuple[Grid, ...]:
    return tuple(grid for grid in _seen(network).maps if grid != (1, 1))


def _width(network: Network, device: str) -> int:
    return int(_seen(network, device).features.shape[1])


def _features(source: Imported) -> int:
    value = next(v for v in source.backbone.graph.output if v.name == "features")
    return int(value.type.tensor_type.shape.dim[1].dim_value)


def _words(grids: Sequence[Grid]) -> str:
    return ", ".join(f"{height} × {width}" for height, width in grids) or "none"
