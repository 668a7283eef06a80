"""Makes further versions of a bundle: good ones with other answers, and damaged ones.

It shares no code with the service: it edits the graph, runs the probes again and seals the result
by the documented format.
"""

import hashlib
import io
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

from load_tests.fuzz.reference import Reader

MANIFEST, MODEL, GOLDEN = "manifest.json", "model.onnx", "golden/expected.npz"
_NOISE = 0.1  # of the last layer's weights, relative to their standard deviation
_MATRIX = 2  # dimensions
_OUTPUTS = ("logits", "scores", "nearest_class")
Pixels = NDArray[np.uint8]  # [H, W, 3]
Arrays = dict[str, NDArray[Any]]


def digest_of(bundle: Path) -> str:
    """Return the digest in the manifest."""
    return str(_manifest(bundle)["digest"])


def name_of(bundle: Path) -> str:
    """Return the model's name."""
    return str(_manifest(bundle)["name"])


def copied(source: Path, target: Path, version: str, name: str = "") -> None:
    """Seal the same model as another version, of the model `name` if that is not ""."""
    _seal(source, target, version, {}, name=name or name_of(source))


def retrained(source: Path, target: Path, version: str) -> None:
    """Change the weights of the last layer a little, as training again does: the same shape."""
    graph = onnx.load(source / MODEL)
    weights = _last_weights(graph.graph)
    values = numpy_helper.to_array(weights)
    noise = np.random.default_rng(0).normal(0, _NOISE * values.std(), values.shape)
    weights.CopyFrom(numpy_helper.from_array((values + noise).astype(np.float32), weights.name))
    _seal_graph(source, target, version, graph.SerializeToString())


def _last_weights(graph: onnx.GraphProto) -> onnx.TensorProto:
    """Return the weights of the layer that computes the logits."""
    tensors: dict[str, onnx.TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
    name = "logits"
    while True:  # the layer may compute other rows too, which are then split off
        node = next(node for node in graph.node if name in node.output)
        for tensor in (tensors[name] for name in node.input if name in tensors):
            if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == _MATRIX:
                return tensor
        name = node.input[0]


def tampered(source: Path, target: Path, version: str) -> None:
    """Change a bit of a weight after sealing."""
    copied(source, target, version)
    content = bytearray((target / MODEL).read_bytes())
    content[len(content) // 2] ^= 1
    (target / MODEL).write_bytes(content)


def requantised(source: Path, target: Path, version: str) -> None:
    """Seal an int8 graph with the probes and the precision of the fp32 one."""
    _seal(source, target, version, {MODEL: _int8(source)})


def with_other_probes(source: Path, target: Path, version: str) -> None:
    """Seal probes whose expected logits are not the graph's."""
    expected = _expected(source)
    expected["logits"] = expected["logits"] + np.float32(0.1)
    _seal(source, target, version, {GOLDEN: _npz(expected)})


DAMAGED: Mapping[str, Callable[[Path, Path, str], None]] = {
    "tampered": tampered,
    "wrong-precision": requantised,
    "failing-probes": with_other_probes,
}


def _seal_graph(source: Path, target: Path, version: str, graph: bytes) -> None:
    expected = _expected(source)
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    rows = [session.run(_OUTPUTS, {"pixels": pixels[None]}) for pixels in _probes(source)]
    for name, column in zip(_OUTPUTS, zip(*rows, strict=True), strict=True):
        expected[name] = np.concatenate(column)
    _seal(source, target, version, {MODEL: graph, GOLDEN: _npz(expected)})


def _seal(
    source: Path, target: Path, version: str, files: Mapping[str, bytes], **fields: object
) -> None:
    """Copy a bundle with other files and another version, and write its manifest."""
    shutil.copytree(source, target)
    (target / "model.sig").unlink(missing_ok=True)
    manifest = {**_manifest(source), "version": version, **fields}
    for name, content in files.items():
        (target / name).write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        manifest["files"][name] = {"bytes": len(content), "sha256": digest}
    manifest["gate"]["calibrated_for_model"] = manifest["files"][MODEL]["sha256"]
    del manifest["digest"]
    canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"))
    manifest["digest"] = hashlib.sha256(canonical.encode()).hexdigest()
    text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False)
    (target / MANIFEST).write_text(text + "\n", encoding="utf-8")


def _manifest(bundle: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads((bundle / MANIFEST).read_text(encoding="utf-8"))
    return manifest


def _expected(bundle: Path) -> Arrays:
    with np.load(bundle / GOLDEN) as archive:
        return dict(archive)


def _npz(arrays: Arrays) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # the stub takes them for its options
    return buffer.getvalue()


def _probes(bundle: Path) -> Iterator[Pixels]:
    reader = Reader(bundle)
    for name in _expected(bundle)["names"]:
        yield reader.pixels((bundle / str(name)).read_bytes())


@contextmanager
def _quiet() -> Iterator[None]:
    """Do not log that a graph could be folded before."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def _int8(bundle: Path) -> bytes:
    """Return the graph with its convolutions in int8, as ONNX Runtime quantises them."""
    with _quiet(), tempfile.TemporaryDirectory(prefix="load-tests-") as folder:
        quantised_path = Path(folder) / MODEL
        quantize_static(
            bundle / MODEL,
            quantised_path,
            _Probes(_probes(bundle)),
            QuantFormat.QDQ,
            op_types_to_quantize=["Conv"],
            per_channel=True,
        )
        return quantised_path.read_bytes()


class _Probes(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    """Gives the probes to ONNX Runtime, for the ranges of the activations."""

    def __init__(self, probes: Iterator[Pixels]) -> None:
        self._probes = probes

    def get_next(self) -> dict[str, Pixels] | None:
        """Return the next input; None after the last."""
        pixels = next(self._probes, None)
        return None if pixels is None else {"pixels": pixels[None]}
