"""Trained models as `tidegate import` reads them, and what their own library answers.

The networks are random; their last layer is fitted to colours by least squares, which takes a
moment. An answer comes from the files alone, by the library's own loading, transforms and model.
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import isfunction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests.unit.models.colour_folders import LABELS
from tests.unit.models.importers.test_probe_tensors import letterbox, loaded
from tidegate.models.importers.torch_export import export
from tidegate.models.importers.torch_runtime import require
from tidegate.service.cli import main

SIDE = 48
PAIR = ("blue", "red")  # the classes of a single logit
_TIMM, _TORCHVISION = "test_resnet", "mobilenet_v3_small"
_MEAN, _STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
_STATED = ["--size", str(SIDE), "--crop-pct", "0.9", "--interpolation", "bicubic"]
_STATED += ["--mean", *map(str, _MEAN), "--std", *map(str, _STD)]
_STRENGTH = 6.0  # between the logits of the right class and the others
_RIDGE = 1e-3  # of the mean square of a feature
Transform = Callable[[Image.Image], Any]  # → float tensor [3, H, W]
Logits = NDArray[np.float64]  # [images, classes]


@dataclass(frozen=True)
class Source:
    """The words of `tidegate import`, and the library's own logits of image files."""

    words: list[str]
    logits: Callable[[Sequence[Path]], Logits]


Labelled = Sequence[tuple[Path, int]]


def timm_folder(folder: Path, images: Labelled) -> Source:
    """A folder that timm saved."""
    timm = require("timm")
    model = _timm_model()
    config = {**_timm_config(), "input_size": (3, SIDE, SIDE)}
    _teach(model, model.fc, timm.data.create_transform(**config, is_training=False), images)
    about = {"label_names": list(LABELS)}
    timm.models.save_for_hf(
        model, str(folder), model_config=about, safe_serialization=True, data_config=config
    )
    again = timm.create_model(f"local-dir:{folder}", pretrained=True)
    chain = timm.data.create_transform(
        **timm.data.resolve_model_data_config(again), is_training=False
    )
    return Source([f"timm:local-dir:{folder}"], _by_torch(again, chain))


def timm_averaged(folder: Path, images: Labelled) -> Source:
    """A checkpoint of timm's train.py, with its arguments and averaged weights beside the last."""
    model, other, chain = _timm_model(), _timm_model(seed=7), _timm_transform()
    _teach(model, model.fc, chain, images)
    arguments = Namespace(
        model=_TIMM, img_size=SIDE, crop_pct=0.9, interpolation="bicubic", mean=_MEAN, std=_STD
    )
    content = {
        "epoch": 3,
        "args": arguments,
        "state_dict": other.state_dict(),
        "state_dict_ema": model.state_dict(),
    }
    return _timm_checkpoint(folder / "last.pth.tar", content, model, chain, ())


def lightning(folder: Path, images: Labelled) -> Source:
    """A checkpoint of Lightning: the module's own name before each tensor, and a criterion."""
    model, chain = _timm_model(), _timm_transform()
    _teach(model, model.fc, chain, images)
    weights = {f"net.{name}": tensor for name, tensor in model.state_dict().items()}
    weights["criterion.weight"] = require("torch").ones(len(LABELS))
    content = {"state_dict": weights, "epoch": 3, "pytorch-lightning_version": "2.5.0"}
    return _timm_checkpoint(folder / "best.ckpt", content, model, chain, _STATED)


def parallel_and_compiled(folder: Path, images: Labelled) -> Source:
    """The weights of DataParallel around a compiled network."""
    model, chain = _timm_model(), _timm_transform()
    _teach(model, model.fc, chain, images)
    weights = {f"module._orig_mod.{name}": t for name, t in model.state_dict().items()}
    return _timm_checkpoint(folder / "best.pt", {"model": weights}, model, chain, _STATED)


def single_logit(folder: Path, images: Labelled) -> Source:
    """A network with one output, trained with binary cross-entropy: that of the second class."""
    model, chain = _timm_model(classes=1), _timm_transform()
    _teach(model, model.fc, chain, images)
    source = _timm_checkpoint(folder / "best.pt", model.state_dict(), model, chain, _STATED)

    def logits(paths: Sequence[Path]) -> Logits:
        (second,) = source.logits(paths).T
        return np.stack([np.zeros_like(second), second], axis=1)

    return Source(source.words, logits)


def torchvision_entry(folder: Path, images: Labelled) -> Source:
    """A checkpoint of torchvision's network, with the transforms of a weights entry."""
    entry = require("torchvision.models").get_model_weights(_TORCHVISION)["IMAGENET1K_V1"]
    return _torchvision(folder, images, entry.transforms(), ["--weights", entry.name])


def huggingface_on_pillow(folder: Path, images: Labelled) -> Source:
    """A folder that transformers saved, whose processor resizes with Pillow."""
    return _huggingface(folder, images, "pillow")


def huggingface_on_tensors(folder: Path, images: Labelled) -> Source:
    """The same with a processor that resizes tensors."""
    return _huggingface(folder, images, "torch")


def onnx_file(folder: Path, images: Labelled) -> Source:
    """An ONNX file with a stated letterbox, and the tensors of the team's loader as its proof."""
    model, torch = _timm_model(), require("torch")

    def chain(image: Image.Image) -> Any:
        return torch.from_numpy(loaded(Path(image.filename)))  # type: ignore[attr-defined]  # of an opened file

    _teach(model, model.fc, chain, images)
    spec = letterbox()
    (folder / "model.onnx").write_bytes(export(model, spec.output_size).SerializeToString())
    (folder / "spec.json").write_text(spec.model_dump_json())
    probes = folder / "probes"
    assert main(["probe-images", str(probes)]) == 0
    tensors: dict[str, Any] = {path.name: loaded(path) for path in sorted(probes.iterdir())}
    np.savez(folder / "tensors.npz", **tensors)
    words = [f"onnx:{folder / 'model.onnx'}", "--spec", str(folder / "spec.json")]
    words += ["--probe-tensors", str(folder / "tensors.npz")]
    return Source(words, _by_torch(model, chain))


def own_transforms(folder: Path, images: Labelled) -> Source:
    """A checkpoint with the transforms of a team's own file, in torchvision's first API."""
    return _own_transforms(folder, images, _OWN)


def own_function_of_transforms(folder: Path, images: Labelled) -> Source:
    """The same in the second API, on tensors, from a function."""
    return _own_transforms(folder, images, _OWN_V2)


SOURCES = (
    timm_folder,
    timm_averaged,
    lightning,
    parallel_and_compiled,
    single_logit,
    torchvision_entry,
    huggingface_on_pillow,
    huggingface_on_tensors,
    onnx_file,
    own_transforms,
    own_function_of_transforms,
)
_OWN = """
from torchvision import transforms as t

evaluation = t.Compose([
    t.Resize(56, interpolation=t.InterpolationMode.BICUBIC),
    t.CenterCrop((48, 40)),
    t.ToTensor(),
    t.Normalize([0.5, 0.4, 0.3], [0.2, 0.3, 0.4]),
])
"""
_OWN_V2 = """
import torch
from torchvision.transforms import v2

def evaluation():
    return v2.Compose([
        v2.ToImage(),
        v2.Resize((48, 40), antialias=True),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4]),
    ])
"""


def _timm_model(classes: int = len(LABELS), seed: int = 1) -> Any:
    require("torch").manual_seed(seed)
    return require("timm").create_model(_TIMM, num_classes=classes).eval()


def _timm_config() -> dict[str, Any]:
    return {"interpolation": "bicubic", "crop_pct": 0.9, "mean": _MEAN, "std": _STD}


def _timm_transform() -> Transform:
    create: Any = require("timm.data").create_transform
    chain: Transform = create(input_size=(3, SIDE, SIDE), **_timm_config(), is_training=False)
    return chain


def _timm_checkpoint(
    path: Path, content: Any, model: Any, chain: Transform, options: Sequence[str]
) -> Source:
    require("torch").save(content, path)
    words = [f"timm:{_TIMM}", "--checkpoint", str(path), *options]
    return Source(words, _by_torch(model, chain))


def _torchvision(folder: Path, images: Labelled, chain: Transform, options: list[str]) -> Source:
    torch = require("torch")
    torch.manual_seed(1)
    model = require("torchvision.models").get_model(_TORCHVISION, num_classes=len(LABELS)).eval()
    _teach(model, model.classifier[-1], chain, images)
    torch.save(model.state_dict(), folder / "best.pth")
    words = [f"torchvision:{_TORCHVISION}", "--checkpoint", str(folder / "best.pth"), *options]
    return Source(words, _by_torch(model, chain))


def _huggingface(folder: Path, images: Labelled, backend: str) -> Source:
    transformers = require("transformers")
    require("torch").manual_seed(1)
    config = transformers.ViTConfig(
        image_size=SIDE, patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, id2label=dict(enumerate(LABELS)),
        label2id={label: class_id for class_id, label in enumerate(LABELS)},
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config).eval()
    processor = {"image_processor_type": "ViTImageProcessor", "size": SIDE}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    suffix = {"pillow": "Pil", "torch": ""}[backend]
    kind = getattr(transformers, f"ViTImageProcessor{suffix}")
    used = kind.from_pretrained(folder)

    def chain(image: Image.Image) -> Any:
        return used(image.convert("RGB"), return_tensors="pt")["pixel_values"][0]

    _teach(model, model.classifier, chain, images)
    model.save_pretrained(folder)
    again = transformers.ViTForImageClassification.from_pretrained(folder)
    return Source([f"huggingface:{folder}", "--backend", backend], _by_torch(again, chain))


def _own_transforms(folder: Path, images: Labelled, code: str) -> Source:
    file = folder / "our_transforms.py"
    file.write_text(code)
    require("torchvision")  # declares what torchvision's import may miss
    found: dict[str, Any] = {}
    exec(code, found)  # noqa: S102  # what the team runs
    chain = found["evaluation"]
    chain = chain() if isfunction(chain) else chain
    model = _timm_model()
    _teach(model, model.fc, chain, images)
    options = ["--transforms", f"{file}:evaluation"]
    return _timm_checkpoint(folder / "best.pt", model.state_dict(), model, chain, options)


def _by_torch(model: Any, chain: Transform) -> Callable[[Sequence[Path]], Logits]:
    """Return a function of image files: the logits of a torch network."""

    def logits(paths: Sequence[Path]) -> Logits:
        with require("torch").inference_mode():
            output = model.eval()(_batch(chain, paths))
        found: Logits = getattr(output, "logits", output).double().numpy()
        return found

    return logits


def _batch(chain: Transform, paths: Sequence[Path]) -> Any:
    tensors = []
    for path in paths:
        with Image.open(path) as image:
            # A copy that is converted forgets its file's name, which a loader may want.
            tensors.append(chain(image if image.mode == "RGB" else image.convert("RGB")))
    return require("torch").stack(tensors)


def _teach(model: Any, last: Any, chain: Transform, images: Labelled) -> None:
    """Fit the linear layer `last` of a network to the classes of `images`, by ridge regression."""
    torch = require("torch")
    seen: list[Any] = []
    hook = last.register_forward_pre_hook(lambda _, given: seen.append(given[0].double()))
    with torch.no_grad():
        model.eval()(_batch(chain, [path for path, _ in images]))
        hook.remove()
        (features,) = seen
        class_ids = torch.tensor([class_id for _, class_id in images])
        if last.out_features == 1:
            targets = _STRENGTH * (class_ids[:, None].double() - 0.5)
        else:
            targets = _STRENGTH * torch.nn.functional.one_hot(class_ids, last.out_features).double()
        mean, middle = features.mean(0), targets.mean(0)
        x = features - mean
        weight = _RIDGE * x.square().mean() * len(x) * torch.eye(x.shape[1]).double()
        solved = torch.linalg.solve(x.T @ x + weight, x.T @ (targets - middle)).T
        last.weight.copy_(solved)
        last.bias.copy_(middle - solved @ mean)
