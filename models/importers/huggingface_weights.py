"""Load the weights of a folder that transformers saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tidegate.models.errors import BuildRefused
from tidegate.models.importers.torch_runtime import require


def load_weights(folder: Path, kind: str, role: str) -> Any:
    """Return the model of a class of transformers; `role` is what it is wanted for, in words.

    Nothing is downloaded and no code in the folder is run. Raises BuildRefused if the folder is not
    such a model, or lacks weights of it.
    """
    try:
        model, report = getattr(require("transformers"), kind).from_pretrained(
            folder,
            local_files_only=True,
            trust_remote_code=False,
            dtype=require("torch").float32,
            output_loading_info=True,
        )
    except (OSError, RuntimeError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise BuildRefused(f"transformers cannot load {folder} as {role}: {first}") from error
    if missing := sorted(str(name) for name in report["missing_keys"]):
        raise BuildRefused(
            f"The weights in {folder} lack {', '.join(missing[:5])}, which would stay random: this "
            f"is not {role} that was trained."
        )
    return model
