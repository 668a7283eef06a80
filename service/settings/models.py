"""What is served."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from tidegate.service.serving.serving_file import Place
from tidegate.service.settings.theme import Theme
from tidegate.service.wanted import ModelFolder, OneBundle, Source


class ModelSettings(Theme):
    """Models and their versions."""

    bundle: Path = Field(
        default=Path("models/bundles/efficientnet-lite0/1"),
        description="folder of the sealed bundle to serve",
    )
    models: Path | None = Field(
        default=None,
        description="folder of several models and versions, NAME/VERSION/, to serve instead of one "
        "bundle; unset = disabled",
    )
    serving: Path | None = Field(
        default=None,
        description="file that says which of them are served; unset = serving.toml in that folder",
    )
    rollback_s: float = Field(
        default=600,
        ge=0,
        le=86_400,
        description="how long a version that is no longer served stays loaded, so that going back "
        "to it takes no time",
    )
    max_loaded_versions: int = Field(
        default=8,
        ge=1,
        le=256,
        description="maximum versions in memory, of all models; those that are no longer served "
        "are unloaded first",
    )
    trusted_keys: Path | None = Field(
        default=None,
        description="folder of public keys (PEM); a bundle that none of them signed is rejected; "
        "unset = signatures are not checked",
    )

    @model_validator(mode="after")
    def _one_source_of_bundles(self) -> Self:
        if self.models is not None and "bundle" in self.model_fields_set:
            raise ValueError("TIDEGATE_MODELS and TIDEGATE_BUNDLE exclude each other: unset one")
        if self.serving is not None and self.models is None:
            raise ValueError("TIDEGATE_SERVING needs TIDEGATE_MODELS")
        return self

    def source(self, drift_state: Path | None) -> Source:
        """Return where the models come from; `drift_state` keeps what their monitors learned."""
        if self.models is None:
            return OneBundle(self.bundle, drift_state)
        return ModelFolder(Place(self.models, self.serving), drift_state)
