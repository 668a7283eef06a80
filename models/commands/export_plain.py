"""`tidegate export-plain`: export a bundle's classifier for other servers."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from tidegate.models.progress import say
from tidegate.models.sealing.unseal import unseal
from tidegate.service.bundle.store import Bundle, open_bundle

_FIELDS = {"steps", "scale", "mean", "std", "channel_order"}


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="tidegate export-plain",
        description="Write what any other server needs to serve a bundle's classifier: "
        "model.onnx (float32 [batch, 3, H, W] in, logits first), labels.txt, and plain.json "
        "with its preprocessing steps. The load tests compare servers with it.",
    )
    options.add_argument("bundle", type=Path, help="folder of a sealed bundle")
    options.add_argument("out", type=Path, help="folder to write into, created if missing")
    return options


def run(options: argparse.Namespace) -> None:
    """Write the three files. Raises BundleRefused if the bundle cannot be opened."""
    export(open_bundle(options.bundle), options.out)
    say(f"wrote {options.out}")


def export(bundle: Bundle, out: Path) -> None:
    """Write `bundle`'s backbone, labels and preprocessing into the folder `out`."""
    backbone = unseal(bundle.model_path.read_bytes())
    manifest = bundle.manifest
    entry = backbone.graph.input[0].name
    for node in backbone.graph.node:
        node.input[:] = ["input" if name == entry else name for name in node.input]
    backbone.graph.input[0].name = "input"
    out.mkdir(parents=True, exist_ok=True)
    (out / "model.onnx").write_bytes(backbone.SerializeToString(deterministic=True))
    (out / "labels.txt").write_bytes((bundle.path / "labels.txt").read_bytes())
    described = {
        "name": manifest.name,
        "precision": manifest.precision,
        "size": [manifest.task.height, manifest.task.width],
        **manifest.preprocess.model_dump(mode="json", include=_FIELDS),
    }
    (out / "plain.json").write_text(json.dumps(described, indent=2) + "\n", "utf-8")
