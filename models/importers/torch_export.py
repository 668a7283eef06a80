"""Export a torch classifier as an ONNX graph, and wrap it as a function on arrays."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from tidegate.models.errors import BuildRefused
from tidegate.models.graphs.two_classes import two_classes
from tidegate.models.importers.torch_runtime import require

OPSET = 18  # the oldest that torch's exporter writes directly; old opsets run on most runtimes

_LOGGERS = ("torch.onnx", "torch.export", "torch.fx", "torch._dynamo", "onnxscript", "onnx_ir")


def check_exporter() -> None:
    """Raise BuildRefused, with the install command, if `export` would lack a library.

    torch imports onnxscript only when it exports, which may be after a long training.
    """
    for name in ("torch", "onnxscript"):
        require(name)


def export(module: Any, size: tuple[int, int]) -> onnx.ModelProto:
    """Export a `torch.nn.Module` in eval mode and float32 for images of `size` (height, width).

    The graph maps `input` float32 [batch, 3, height, width], any batch, to `logits`
    [batch, classes]. The same module gives the same bytes, without traces of source files.
    Raises BuildRefused if a library is missing, if torch cannot export the module, or if the module
    does not return logits.
    """
    check_exporter()
    torch = require("torch")
    wrapped = _logits_only(module)
    example = torch.zeros(2, 3, *size)  # 2: torch would treat a batch of 1 as a constant
    _check_logits(wrapped, example)
    try:
        with _silence():
            program = torch.onnx.export(
                wrapped,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=["input"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
    except Exception as error:  # the exporter raises many unrelated classes
        raise BuildRefused(
            f"torch cannot export {type(module).__name__}: {_first_line(error)}. Export it in the "
            "project that trained it, and import the ONNX file: onnx:FILE with --spec."
        ) from error
    model: onnx.ModelProto = program.model_proto
    _forget_traces(model)
    return model


def with_stand_in(encoder: Any, width: int) -> Any:
    """Return an encoder [batch, width] with a random last layer of two classes, to be exported."""
    torch = require("torch")
    generator = torch.Generator().manual_seed(0)
    layer = torch.nn.Linear(width, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(2, width, generator=generator) / width**0.5)
        layer.bias.zero_()
    return torch.nn.Sequential(encoder, layer)


def forward(module: Any) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Return torch's own logits as a function: float32 [batch, 3, H, W] → float32 [batch, C].

    A single logit is returned as those of two classes.
    """
    torch = require("torch")
    wrapped = _logits_only(module)

    def logits(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            result: NDArray[np.float32] = wrapped(torch.from_numpy(batch)).numpy()
        return two_classes(result)

    return logits


def _logits_only(module: Any) -> Any:
    """Wrap a module of any library so that it maps one tensor to one tensor."""
    torch = require("torch")

    class Logits(torch.nn.Module):  # type: ignore[misc, name-defined]  # torch is imported late
        def __init__(self) -> None:
            super().__init__()
            self.classifier = module

        def forward(self, input: Any) -> Any:
            output = self.classifier(input)
            return getattr(output, "logits", output)  # Hugging Face returns a record

    return Logits().eval().float()


def _check_logits(wrapped: Any, example: Any) -> None:
    torch = require("torch")
    name = type(wrapped.classifier).__name__
    try:
        with torch.inference_mode():
            logits = wrapped(example)
    except Exception as error:  # a network's own size checks raise anything
        size = " × ".join(map(str, example.shape[2:]))
        raise BuildRefused(
            f"{name} does not run on images of {size}: {_first_line(error)}. Give the size that it "
            "was trained with."
        ) from error
    shape = tuple(getattr(logits, "shape", ()))
    if len(shape) != 2 or shape[0] != len(example):
        raise BuildRefused(
            f"{name} returns {shape or type(logits).__name__}, not logits [batch, classes]: it is "
            "not an image classifier."
        )


@contextmanager
def _silence() -> Iterator[None]:
    """Suppress the exporter's warnings and logs: the user can do nothing about them."""
    levels = {name: logging.getLogger(name).level for name in _LOGGERS}
    for name in levels:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _forget_traces(model: onnx.ModelProto) -> None:
    """Drop metadata: it contains stack traces with paths of the exporting machine."""
    graph = model.graph
    for part in (
        model,
        graph,
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.value_info,
        *graph.initializer,
        *model.functions,
        *(node for function in model.functions for node in function.node),
    ):
        del part.metadata_props[:]
        part.ClearField("doc_string")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__).rstrip(".")
