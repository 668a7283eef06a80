"""What platforms dictate: ports, folders, times and routes. Presets, chosen by TIDEGATE_PLATFORM.

A preset gives defaults: settings in the environment win. A platform is never detected: what looks
like one is only logged, so that no file or variable changes what a service does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

Platform = Literal["sagemaker", "vertex", "kserve"]
PLATFORMS: tuple[Platform, ...] = get_args(Platform)

_EVERY_ADDRESS = "0.0.0.0"  # noqa: S104 - the platform's network is the only one to reach it
_PORT = "8080"
_MODEL_FOLDERS = {"sagemaker": Path("/opt/ml/model"), "kserve": Path("/mnt/models")}
_PORT_VARIABLES = {
    "sagemaker": "SAGEMAKER_BIND_TO_PORT",
    "vertex": "AIP_HTTP_PORT",
    "kserve": "PORT",  # of Knative
}
_HEALTH_ROUTE, _PREDICT_ROUTE = "/health", "/predict"  # of Vertex's LocalEndpoint
_DIALECTS = {"sagemaker": "sagemaker", "vertex": "vertex", "kserve": "v1,v2"}
# SageMaker kills 30 s after SIGTERM, which is also the default of Kubernetes.
_DRAINS = {"sagemaker": (2, 25), "vertex": (2, 25), "kserve": (5, 20)}


@dataclass(frozen=True, slots=True)
class Facts:
    """What a platform tells its containers, for the dialects that it uses."""

    vertex_health_route: str = _HEALTH_ROUTE
    vertex_predict_route: str = _PREDICT_ROUTE
    sagemaker_batch: bool = False  # in a batch transform, one error fails the whole job


def facts(environment: Mapping[str, str]) -> Facts:
    """Read the variables of the platforms. Raises ValueError for a route that cannot be one."""
    routes = {
        name: environment.get(name) or default
        for name, default in (
            ("AIP_HEALTH_ROUTE", _HEALTH_ROUTE),
            ("AIP_PREDICT_ROUTE", _PREDICT_ROUTE),
        )
    }
    for name, route in routes.items():
        if not route.startswith("/") or "{" in route:
            raise ValueError(f"{name}={route}: a route starts with / and has no braces")
    return Facts(
        routes["AIP_HEALTH_ROUTE"],
        routes["AIP_PREDICT_ROUTE"],
        environment.get("SAGEMAKER_BATCH", "").lower() == "true",
    )


def preset(platform: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Return a platform's defaults by the names of the settings; none for an unknown platform."""
    if platform not in PLATFORMS:
        return {}
    delay_s, timeout_s = _DRAINS[platform]
    return {
        "host": _EVERY_ADDRESS,
        "port": environment.get(_PORT_VARIABLES[platform]) or _PORT,
        "dialects": _DIALECTS[platform],
        "drain_delay_s": str(delay_s),
        "drain_timeout_s": str(timeout_s),
    }


def bundle_of(platform: str, environment: Mapping[str, str]) -> Path | None:
    """Return the folder into which the platform has put a bundle; None without files in it.

    Whatever is in it counts: what is no bundle must stop the start, and not serve another model.
    """
    folder = _MODEL_FOLDERS.get(platform)
    if platform == "vertex" and "://" not in (uri := environment.get("AIP_STORAGE_URI") or "://"):
        folder = Path(uri)
    if folder is None or not folder.is_dir() or not any(folder.iterdir()):
        return None
    chosen = Path(environment.get("TIDEGATE_BUNDLE", ""))
    return chosen if chosen.is_relative_to(folder) else folder  # a bundle may be further inside


def hint(environment: Mapping[str, str]) -> str:
    """Return which platform this looks like, and by what; "" for none."""
    signs = {
        "sagemaker": [name for name in environment if name.startswith("SAGEMAKER_")],
        "vertex": [name for name in environment if name.startswith("AIP_")],
        "kserve": [str(folder) for folder in [_MODEL_FOLDERS["kserve"]] if folder.is_dir()],
    }
    if _MODEL_FOLDERS["sagemaker"].is_dir():
        signs["sagemaker"].append(str(_MODEL_FOLDERS["sagemaker"]))
    for platform, found in signs.items():
        if found:
            return (
                f"this looks like {platform} ({min(found)} exists): "
                f"set TIDEGATE_PLATFORM={platform} for its port, folder, routes and times"
            )
    return ""
