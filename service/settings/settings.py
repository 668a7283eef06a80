"""All settings in one, and how they are read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Self

from pydantic import ValidationError

from tidegate.service.errors import SettingsInvalid
from tidegate.service.lifecycle import ServiceConfig
from tidegate.service.settings.access import AccessSettings
from tidegate.service.settings.answers import AnswerSettings
from tidegate.service.settings.engine import EngineSettings
from tidegate.service.settings.environment import KUBERNETES, preset, refuse_unknown
from tidegate.service.settings.limits import LimitSettings
from tidegate.service.settings.listening import ListeningSettings
from tidegate.service.settings.models import ModelSettings
from tidegate.service.settings.theme import PREFIX, is_blank
from tidegate.service.settings.watching import WatchingSettings
from tidegate.service.startup import ServingConfig


class Settings(
    ModelSettings,
    ListeningSettings,
    AccessSettings,
    LimitSettings,
    AnswerSettings,
    EngineSettings,
    WatchingSettings,
):
    """Every setting, with its unit and bounds."""

    @classmethod
    def read(cls, given: Mapping[str, Any] | None = None) -> Self:
        """Read the environment; `given` (from the command line) overrides it.

        A blank value counts as unset. Raises SettingsInvalid for an unknown TIDEGATE_* name, with
        the nearest known one, or for a value out of bounds.
        """
        known = {PREFIX + name.upper() for name in cls.model_fields}
        refuse_unknown(os.environ, known)
        explicit = {name: value for name, value in (given or {}).items() if not is_blank(value)}
        try:
            return cls(**(preset(os.environ) | explicit))
        except ValidationError as error:
            first = error.errors()[0]
            if not first["loc"]:
                raise SettingsInvalid(f"{first['msg'].removeprefix('Value error, ')}.") from error
            name = PREFIX + str(first["loc"][0]).upper()
            hint = KUBERNETES if str(first["input"]).startswith("tcp://") else ""
            raise SettingsInvalid(f"{name}={first['input']}: {first['msg']}.{hint}") from error

    def service_config(self) -> ServiceConfig:
        """Return the configuration of the service."""
        return ServiceConfig(
            source=self.source(self.drift_state),
            serving=ServingConfig(
                engine=self.engine_config(),
                max_queue=self.max_queue,
                default_deadline_s=self.deadline_ms / 1000,
                decode_threads=self.decode_threads,
                max_image_pixels=self.max_image_pixels,
                engine_timeout_s=self.engine_timeout_s,
                large_decoders=self.large_decoders,
            ),
            max_class_series=self.max_class_series,
            drift_run_length=self.drift_run_length,
            review=self.review_config(),
            trusted_keys=self.trusted_keys,
            rollback_s=self.rollback_s,
            max_loaded_versions=self.max_loaded_versions,
        )
