"""A hand-written JSON file with the preprocessing, for models that do not contain it.

The file is a `PreprocessSpec`, or `{"keras": {…}}` with the arguments used in training.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from tidegate.models.errors import BuildRefused
from tidegate.models.importers.base import SourceTransform
from tidegate.models.importers.keras_rules import KerasForm, transform, translate
from tidegate.service.imaging.spec import PreprocessSpec


@dataclass(frozen=True, slots=True)
class Stated:
    """The spec in the file, and Keras's own preprocessing if the file has Keras arguments."""

    spec: PreprocessSpec
    transform: SourceTransform | None


def read(path: Path) -> Stated:
    """Return the content of the file at `path`.

    Raises BuildRefused if the file is missing or is not JSON, and with the field's name if a field
    is unknown, missing or invalid.
    """
    try:
        content = json.loads(path.read_text("utf-8-sig"))
    except OSError as error:
        raise BuildRefused(f"The spec {path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, or not JSON
        raise BuildRefused(f"The spec {path.name} is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise BuildRefused(f"The spec {path.name} is not a JSON object.")
    try:
        if "keras" not in content:
            return Stated(PreprocessSpec.model_validate(content), None)
        if unknown := sorted(content.keys() - {"keras"}):
            raise BuildRefused(f"The spec {path.name} has {unknown[0]!r} in addition to 'keras'.")
        form = KerasForm.model_validate(content["keras"])
    except ValidationError as error:
        raise BuildRefused(f"The spec {path.name} is not valid: {_problems(error)}.") from error
    return Stated(translate(form), transform(form))


def _problems(error: ValidationError) -> str:
    """Return every validation error with its field."""
    return "; ".join(
        ".".join(map(str, detail["loc"])) + ": " + detail["msg"].removeprefix("Value error, ")
        for detail in error.errors(include_url=False)
    )
