"""A simple classifier, as in a notebook: one image, Pillow, NumPy, one session.

Every server of a comparison and the bare loop run it. It needs only numpy, pillow and onnxruntime,
so that it can be imported in any peer's environment. It reads a folder with `model.onnx` (input
float32 [batch, 3, H, W], first output the logits), `labels.txt` and `plain.json` (steps, scale,
mean, std, channel order). A model whose `plain.json` has the precision bf16 runs on OpenVINO.
"""

import json
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image, ImageOps

TOP = 5
FILES = ("model.onnx", "plain.json", "labels.txt")
Floats = NDArray[np.float32]
Step = dict[str, Any]  # one of plain.json's `steps`


@dataclass(frozen=True)
class Recipe:
    """Preprocessing from encoded bytes to the model's input, validated by `read_recipe`."""

    steps: tuple[Step, ...]
    scale: float
    mean: Floats  # [3]
    std: Floats  # [3]
    bgr: bool
    precision: str = "fp32"

    def prepare(self, data: bytes) -> Floats:  # [3, H, W]
        """Decode, apply the EXIF orientation, crop, resize, normalise: (x · scale − mean) / std.

        Raises Pillow's exceptions for bytes that are not a complete image.
        """
        image: Image.Image = Image.open(BytesIO(data))
        ImageOps.exif_transpose(image, in_place=True)
        if image.mode != "RGB":
            image = image.convert("RGB")
        for step in self.steps:
            image = _OPERATIONS[step["op"]](image, step)
        pixels = np.asarray(image, np.float32)
        if self.bgr:
            pixels = pixels[..., ::-1]
        if self.scale != 1:
            pixels = pixels * np.float32(self.scale)
        return np.ascontiguousarray(((pixels - self.mean) / self.std).transpose(2, 0, 1))


class Classifier:
    """The model of a folder in one session with `threads` threads."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        """Load the folder; raises FileNotFoundError or ValueError, as `read_recipe` does."""
        self.recipe = read_recipe(folder)
        self.labels = (folder / "labels.txt").read_text(encoding="utf-8").splitlines()
        open_session = Bf16Session if self.recipe.precision == "bf16" else session
        self._session: Any = open_session(folder / "model.onnx", threads)
        self._input = self._session.get_inputs()[0].name
        self._output = self._session.get_outputs()[0].name

    def classify(self, data: bytes) -> dict[str, object]:
        """Classify one encoded image."""
        return self.classify_prepared([self.recipe.prepare(data)])[0]

    def classify_prepared(self, images: list[Floats]) -> list[dict[str, object]]:
        """Classify a batch of prepared images with one run of the model; answers in order."""
        return [self._answer(row) for row in self.logits(images)]

    def logits(self, images: list[Floats]) -> Floats:  # [batch, classes]
        """Run the model on a batch of prepared images."""
        logits: Floats = self._session.run([self._output], {self._input: np.stack(images)})[0]
        return logits

    def warm_up(self, largest: int) -> None:
        """Run every batch size up to `largest` once: OpenVINO compiles each at its first run."""
        picture = BytesIO()
        Image.new("RGB", (8, 8)).save(picture, "PNG")
        blank = self.recipe.prepare(picture.getvalue())
        for size in range(1, largest + 1):
            self.logits([blank] * size)

    def _answer(self, logits: Floats) -> dict[str, object]:  # [classes]
        exponentials = np.exp(logits - logits.max())
        probabilities = exponentials / exponentials.sum()
        best = np.argsort(probabilities)[::-1][:TOP]
        return {
            "predictions": [
                {
                    "class_id": int(i),
                    "label": self.labels[i],
                    "probability": round(float(probabilities[i]), 6),
                }
                for i in best
            ]
        }


@dataclass(frozen=True)
class _Named:
    name: str


def session(model: Path, threads: int = 1) -> ort.InferenceSession:
    """Return a CPU session with `threads` threads that do not spin, to share the cores fairly."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


class Bf16Session:
    """OpenVINO in bf16 on the calling thread, with the methods of a session that are used here."""

    def __init__(self, model: Path, threads: int = 1) -> None:
        """Read `model`; each batch size is compiled when it is first run, as that is faster."""
        from openvino import Core  # noqa: PLC0415  # only for this precision

        self._core = Core()
        self._model = self._core.read_model(str(model))
        self._config = {
            "INFERENCE_PRECISION_HINT": "bf16",
            "PERFORMANCE_HINT": "LATENCY",  # its documentation's, for one request at a time
            "INFERENCE_NUM_THREADS": str(threads),
            "NUM_STREAMS": "1",
            "ENABLE_CPU_PINNING": "NO",  # it would put the threads of all processes on one core
        }
        self._compiled: dict[int, Any] = {}

    def get_inputs(self) -> list[Any]:
        return [_Named(self._model.inputs[0].any_name)]

    def get_outputs(self) -> list[Any]:
        return [_Named(self._model.outputs[0].any_name)]

    def run(self, names: list[str], given: dict[str, Floats]) -> list[Floats]:
        (batch,) = given.values()
        if len(batch) not in self._compiled:
            self._model.reshape([len(batch), *batch.shape[1:]])
            compiled = self._core.compile_model(self._model, "CPU", self._config)
            self._compiled[len(batch)] = compiled.create_infer_request()
        found = self._compiled[len(batch)].infer([batch], share_inputs=True)
        return [found[name] for name in names]


def read_recipe(folder: Path) -> Recipe:
    """Read and validate `plain.json`; raises FileNotFoundError or ValueError with the reason."""
    for name in FILES:
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"no {name} in {folder}: create it with `tidegate export-plain`"
            )
    path = folder / "plain.json"
    try:
        parsed = json.loads(path.read_text(encoding="utf-8"))
        recipe = Recipe(
            steps=tuple(parsed["steps"]),
            scale=float(parsed["scale"]),
            mean=np.asarray(parsed["mean"], np.float32),
            std=np.asarray(parsed["std"], np.float32),
            bgr=parsed["channel_order"] == "bgr",
            precision=parsed.get("precision", "fp32"),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {error!r}") from error
    for step in recipe.steps:
        _check(step)
    return recipe


def _check(step: Step) -> None:
    if step.get("op") not in _OPERATIONS:
        raise ValueError(f"the plain classifier does not support the step {step.get('op')!r}")
    if step.get("backend", "pillow") != "pillow":
        raise ValueError(f"the plain classifier resizes with Pillow, not {step['backend']!r}")
    if "filter" in step and step["filter"].upper() not in Image.Resampling.__members__:
        raise ValueError(f"Pillow has no filter {step['filter']!r}")
    if "offset" in step and step["offset"] not in _MARGINS:
        raise ValueError(
            f"the plain classifier does not support the crop offset {step['offset']!r}"
        )


def _resize(image: Image.Image, step: Step) -> Image.Image:
    return image.resize((step["width"], step["height"]), _filter(step))


def _resize_shortest_edge(image: Image.Image, step: Step) -> Image.Image:
    short, long = min(image.size), max(image.size)
    exact = step["size"] * long / short
    scaled = int(exact) if step["rounding"] == "truncate" else round(exact)
    upright = image.width <= image.height
    return image.resize(
        (step["size"], scaled) if upright else (scaled, step["size"]), _filter(step)
    )


def _centre_crop(image: Image.Image, step: Step) -> Image.Image:
    return _cut(image, step["width"], step["height"], step["offset"])


def _centre_crop_fraction(image: Image.Image, step: Step) -> Image.Image:
    side = max(1, step["numerator"] * min(image.size) // step["denominator"])
    return _cut(image, side, side, step["offset"])


def _cut(image: Image.Image, width: int, height: int, offset: str) -> Image.Image:
    left, upper = _margin(image.width - width, offset), _margin(image.height - height, offset)
    return image.crop(
        (left, upper, left + width, upper + height)
    )  # pixels outside the image are black


def _margin(excess: int, offset: str) -> int:
    """Return the pixels before the crop; if negative (padding), the smaller half is before."""
    return -(-excess // 2) if excess < 0 else _MARGINS[offset](excess)


def _filter(step: Step) -> Image.Resampling:
    return Image.Resampling[step["filter"].upper()]


_MARGINS = {
    "floor": lambda excess: excess // 2,
    "ceil": lambda excess: (excess + 1) // 2,
    "half-even": lambda excess: round(excess / 2),
}
_OPERATIONS = {
    "resize": _resize,
    "resize-shortest-edge": _resize_shortest_edge,
    "centre-crop": _centre_crop,
    "centre-crop-fraction": _centre_crop_fraction,
}
