"""`tidegate probe-images`: write the images that prove a preprocessing."""

from __future__ import annotations

import argparse
from pathlib import Path

from tidegate.models.probes.probe_set import probe_set
from tidegate.models.progress import say


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="tidegate probe-images",
        description="Write the images that prove a preprocessing. Let the data loader of your "
        "training turn each into the network's input, and give the tensors to `tidegate import` "
        "as --probe-tensors.",
    )
    options.add_argument("out", type=Path, help="folder to write into, created if missing")
    return options


def run(options: argparse.Namespace) -> None:
    """Write the files."""
    probes = probe_set()
    options.out.mkdir(parents=True, exist_ok=True)
    for name, file in probes.items():
        (options.out / name).write_bytes(file)
    say(f"wrote {len(probes)} images into {options.out}")
