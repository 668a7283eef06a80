"""Import a timm classifier from a name and a checkpoint, or from a folder that timm saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidegate.models.errors import BuildRefused
from tidegate.models.graphs.backbone import to_backbone
from tidegate.models.importers import timm_rules, torch_checkpoint
from tidegate.models.importers.base import Imported, Preprocessing, Rival
from tidegate.models.importers.class_words import check_order
from tidegate.models.importers.composed import Composed
from tidegate.models.importers.timm_arguments import training_arguments
from tidegate.models.importers.timm_source import Source, find
from tidegate.models.importers.torch_checkpoint import Checkpoint
from tidegate.models.importers.torch_export import export, forward, with_stand_in
from tidegate.models.importers.torch_runtime import require, version
from tidegate.service.imaging.spec import PreprocessSpec

# What training often uses instead of a model's default.
_SIZES = (32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 384)
_FILTERS = ("bilinear", "bicubic", "nearest")
_NORMALISATIONS = (
    ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ((0, 0, 0), (1, 1, 1)),
)


@dataclass(frozen=True)
class Overrides:
    """User overrides of the model's data configuration; None keeps the model's value."""

    size: int | None = None  # pixels, both sides
    crop_pct: float | None = None
    crop_mode: str | None = None
    interpolation: str | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None

    def stated(self) -> dict[str, Any]:
        """Return the overrides that are set, under timm's names."""
        options = {
            "img_size": self.size,
            "crop_pct": self.crop_pct,
            "crop_mode": self.crop_mode,
            "interpolation": self.interpolation,
            "mean": self.mean,
            "std": self.std,
        }
        return {name: value for name, value in options.items() if value is not None}


def load(
    name: str,
    *,
    checkpoint: Path | None = None,
    state_dict: str | None = None,
    classes: int | None = None,
    backend: str | None = None,
    random_weights: bool = False,
    overrides: Overrides | None = None,
    own: Preprocessing | None = None,
    encoder: bool = False,
) -> Imported:
    """Import `name` ("resnet50.a1_in1k", or "local-dir:FOLDER") with the weights of a checkpoint.

    The preprocessing is `own`; else that of the training script's arguments, if it saved them;
    else that of timm's validate.py: the model's test size, if it has one and no other is given. As
    an `encoder`, whose features alone are wanted, the weights need no classifier; two random
    classes stand in for it. Raises BuildRefused if the weights, name or preprocessing are
    ambiguous.
    """
    if backend not in (None, "pillow") and own is None:
        raise BuildRefused(f"timm resizes with Pillow, not with {backend}: omit --backend.")
    source = find(name, checkpoint)
    weights = None
    if source.checkpoint is not None:
        weights = torch_checkpoint.read(source.checkpoint, state_dict)
    elif not random_weights:
        raise BuildRefused(
            f"timm:{source.name} needs weights: give --checkpoint FILE; none are downloaded. "
            "To try the import without a checkpoint, give --random-weights."
        )
    options = _Options((overrides or Overrides()).stated(), _trained(source, weights))
    if own is not None:
        if options.stated:
            raise BuildRefused("Give your own preprocessing or timm's options, not both.")
        options = _Options({"img_size": own.spec.output_size[0]}, {})
    if encoder and weights is not None and _found_classes(source, weights) is None:
        classes = 0
    model, notes = _filled(source, weights, classes, options)
    weights = weights or torch_checkpoint.random(model, _input_size(model))
    used = own or _default(options.config(model))
    network = with_stand_in(model, model.num_features) if classes == 0 else model
    found = to_backbone(export(network, used.spec.output_size))
    return Imported(
        backbone=found.model,
        spec=used.spec,
        transform=used.transform,
        forward=forward(network),
        source=f"{version('timm')} {source.name}",
        licence=_licence(source, random_weights),
        checkpoint_sha256=weights.sha256,
        labels=_labels(source.pretrained_cfg, weights, found.classes),
        notes=(*notes, *(() if own else _notes(model, used.spec, options)), *found.notes),
        rivals=() if random_weights or own else _rivals(source, model, options),
    )


@dataclass(frozen=True)
class _Options:
    """What states the preprocessing, under timm's names."""

    stated: Mapping[str, Any]  # by the user
    trained: Mapping[str, Any] | None  # by training; None: unknown

    def config(self, model: Any, **changes: Any) -> dict[str, Any]:
        """Return timm's data configuration of the model.

        Without the arguments of training it is that of timm's validate.py, with the test size.
        """
        config: dict[str, Any] = require("timm.data").resolve_input_data_config(
            model,
            {**(self.trained or {}), **self.stated, **changes},
            use_test_size=self.trained is None,
        )
        return config

    @property
    def size(self) -> int | None:
        """Return the input size that is stated, if it is square."""
        size = self.stated.get("img_size") or (self.trained or {}).get("img_size")
        return None if size is None else int(size)


def _trained(source: Source, weights: Checkpoint | None) -> dict[str, Any] | None:
    if weights is None or source.checkpoint is None:
        return None
    return training_arguments(source.checkpoint, weights.arguments, source.name)


def _input_size(model: Any) -> tuple[int, int]:
    return tuple(require("timm.models").get_model_input_config(model)["input_size"][1:])


def _filled(
    source: Source, weights: Checkpoint | None, classes: int | None, options: _Options
) -> tuple[Any, tuple[str, ...]]:
    """Return the model with its weights, and notes on which were loaded."""
    if weights is None:
        require("torch").manual_seed(0)
        return _create(source, classes, options), (torch_checkpoint.RANDOM,)
    model = _create(source, _classes(source, weights) if classes is None else classes, options)
    return model, weights.fill(model)


def _classes(source: Source, weights: Checkpoint) -> int:
    """Return how many classes the checkpoint's classifier has."""
    found = _found_classes(source, weights)
    if found is None:
        raise BuildRefused(
            f"The number of classes is unknown, as the checkpoint has no classifier of "
            f"timm:{source.name}: give --classes, or the name of the model that was trained."
        )
    return found


def _found_classes(source: Source, weights: Checkpoint) -> int | None:
    layer = (source.pretrained_cfg or {}).get("classifier") or require(
        "timm"
    ).get_pretrained_cfg_value(source.name, "classifier")
    first = layer[0] if isinstance(layer, list | tuple) else layer
    return weights.classes(f"{first}.weight") if first else None


def _create(source: Source, classes: int | None, options: _Options) -> Any:
    timm_models = require("timm.models")
    stated = {} if options.size is None else {"img_size": options.size}
    try:
        arguments = timm_models.resolve_model_input_args(
            source.name,
            stated,
            pretrained_cfg=source.pretrained_cfg,
            pretrained=False,
            **{**source.model_args, "num_classes": classes},
        )
        return timm_models.create_model(**arguments)
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise BuildRefused(f"timm cannot create {source.name}: {error}.") from error


def _default(config: Mapping[str, Any]) -> Preprocessing:
    """Return the spec of timm's data configuration, and timm's own transforms."""
    chain = require("timm.data").create_transform(**config, is_training=False).transforms
    kinds = [type(transform).__name__ for transform in chain]
    cut = kinds.index("MaybeToTensor")
    own = Composed(version("timm"), "pillow", chain[:cut], chain[cut:])
    return Preprocessing(timm_rules.translate(config), own)


def _notes(model: Any, spec: PreprocessSpec, options: _Options) -> tuple[str, ...]:
    if options.trained is not None:
        return ("The preprocessing is that of timm's training script, by its saved arguments.",)
    size = spec.output_size
    trained = tuple(model.pretrained_cfg.get("input_size", (3, *size))[-2:])
    if trained == size:
        return ()
    return (
        f"Evaluated at {size[0]} × {size[1]} as timm's validate.py does, not at the "
        f"{trained[0]} × {trained[1]} of timm's training recipe.",
    )


def _rivals(source: Source, model: Any, options: _Options) -> tuple[Rival, ...]:
    """Return other usual preprocessings; none for what the user, training or the folder states."""
    if options.trained is not None or source.pretrained_cfg is not None:
        return ()
    own = timm_rules.translate(options.config(model))
    changes: dict[str, dict[str, Any]] = {}
    if "img_size" not in options.stated and not model.pretrained_cfg.get("fixed_input_size"):
        longest = 1.5 * own.output_size[0]
        changes |= {f"--size {size}": {"img_size": size} for size in _SIZES if size < longest}
    if not {"crop_pct", "crop_mode"} & {*options.stated}:
        changes |= {f"--crop-pct {share}": {"crop_pct": share} for share in (0.875, 1)}
        changes["--crop-pct 1 --crop-mode squash"] = {"crop_pct": 1.0, "crop_mode": "squash"}
    if "interpolation" not in options.stated:
        changes |= {f"--interpolation {name}": {"interpolation": name} for name in _FILTERS}
    if not {"mean", "std"} & {*options.stated}:
        for mean, std in _NORMALISATIONS:
            words = f"--mean {' '.join(map(str, mean))} --std {' '.join(map(str, std))}"
            changes[words] = {"mean": mean, "std": std}
    rivals = {
        words: timm_rules.translate(options.config(model, **change))
        for words, change in changes.items()
    }
    return tuple(Rival(words, spec) for words, spec in rivals.items() if spec != own)


def _licence(source: Source, random_weights: bool) -> str:
    if random_weights and source.checkpoint is None:
        return "none: random weights"
    return str((source.pretrained_cfg or {}).get("license") or "unstated")


def _labels(
    cfg: Mapping[str, Any] | None, weights: Checkpoint, classes: int
) -> tuple[str, ...] | None:
    """Return the class names of the folder's configuration, or those in the checkpoint."""
    names = (cfg or {}).get("label_names")
    if not isinstance(names, list | tuple) or len(names) != classes:
        return weights.labels
    stated = tuple(str(name) for name in names)
    check_order(weights.labels, stated)
    return stated
