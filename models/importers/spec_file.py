"""Preprocessing stated by hand: a JSON file for models that do not say how they were trained.

The file is a `PreprocessSpec`, or `{"keras": {…}}`, the arguments that training gave to Keras.
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
    """What a spec file says: the spec, and Keras's own code where Keras made the pixels."""

    spec: PreprocessSpec
    transform: SourceTransform | None


def read(path: Path) -> Stated:
    """Return what the file at `path` states.

    Raises BuildRefused, naming the field, for a file that is missing, is not JSON, or has a field
    that is unknown, missing or wrong.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise BuildRefused(f"The spec {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:  # not UTF-8, or not JSON
        raise BuildRefused(f"The spec {path.name} is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise BuildRefused(f"The spec {path.name} is not a JSON object.")
    try:
        if "keras" not in content:
            return Stated(PreprocessSpec.model_validate(content), None)
        if unknown := sorted(content.keys() - {"keras"}):
            raise BuildRefused(f"The spec {path.name} has {unknown[0]!r} beside 'keras'.")
        form = KerasForm.model_validate(content["keras"])
    except ValidationError as error:
        raise BuildRefused(f"The spec {path.name} is not valid: {_told(error)}.") from error
    return Stated(translate(form), transform(form))


def _told(error: ValidationError) -> str:
    """Return every complaint with the field it is about."""
    return "; ".join(
        ".".join(map(str, detail["loc"])) + ": " + detail["msg"].removeprefix("Value error, ")
        for detail in error.errors(include_url=False)
    )
