"""What the environment says: names that are not settings, and other defaults for the rest."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

from tidegate.service import platforms
from tidegate.service.errors import SettingsInvalid
from tidegate.service.settings.profiles import PROFILES
from tidegate.service.settings.theme import PREFIX, is_blank

# tidegate, tidegate-canary, …: TIDEGATE_CANARY_SERVICE_HOST, TIDEGATE_CANARY_PORT_8000_TCP_ADDR
_SERVICE_LINK = re.compile(rf"{PREFIX}(\w+_)?(SERVICE_(HOST|PORT\w*)|PORT_\d+_\w+)$")
KUBERNETES = (
    " Kubernetes sets such names for a Service called tidegate or tidegate-…: "
    "set enableServiceLinks: false in the pod's spec."
)


def preset(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the defaults of the chosen profile and platform for what the environment leaves."""
    given = {name.upper(): value for name, value in environment.items() if not is_blank(value)}
    profile = PROFILES.get(given.get(f"{PREFIX}PROFILE", "").strip(), {})
    platform = given.get(f"{PREFIX}PLATFORM", "").strip()
    values: dict[str, Any] = {
        name: value
        for name, value in {**profile, **platforms.preset(platform, environment)}.items()
        if PREFIX + name.upper() not in given
    }
    bundle = platforms.bundle_of(platform, environment)
    if bundle is not None and f"{PREFIX}MODELS" not in given:
        values["bundle"] = bundle  # also instead of TIDEGATE_BUNDLE, which images set
    return values


def refuse_unknown(environment: Mapping[str, str], known: set[str]) -> None:
    """Raise SettingsInvalid for an unknown name: pydantic-settings ignores unknown names."""
    for name in sorted(environment):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            if _SERVICE_LINK.match(name) or environment[name].startswith("tcp://"):
                raise SettingsInvalid(f"{name} is not a setting.{KUBERNETES}")
            near = difflib.get_close_matches(name.upper(), sorted(known), 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise SettingsInvalid(f"{name} is not a setting.{hint}")
