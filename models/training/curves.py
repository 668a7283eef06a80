"""The curves of a training as a CSV file, and for TensorBoard if it is installed."""

from __future__ import annotations

import csv
import importlib.util
import io
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from tidegate.models.importers.torch_runtime import require
from tidegate.models.training.run_folder import BOARD
from tidegate.models.training_record import Epoch
from tidegate.service.files import write_atomically

_CURVES = "curves.csv"
_SHOWN = ("rate", "loss", "nll", "accuracy", "balanced_accuracy")


class Curves:
    """Writes the epochs of a training to its folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _CURVES
        self._board = _board(folder / BOARD)

    def write(self, epochs: Sequence[Epoch]) -> None:
        """Write all epochs so far; those after the place of a resumed training are replaced."""
        text = io.StringIO()
        names = [field.name for field in fields(Epoch)]
        rows = csv.DictWriter(text, names, lineterminator="\n")
        rows.writeheader()
        rows.writerows(asdict(epoch) for epoch in epochs)
        write_atomically(self._path, text.getvalue().encode())
        if self._board is not None and epochs:
            for name in _SHOWN:
                self._board.add_scalar(name, getattr(epochs[-1], name), len(epochs))
            self._board.flush()

    def close(self) -> None:
        """Close TensorBoard's file."""
        if self._board is not None:
            self._board.close()


def _board(folder: Path) -> Any:
    if importlib.util.find_spec("tensorboard") is None:
        return None
    return require("torch.utils.tensorboard").SummaryWriter(str(folder))
