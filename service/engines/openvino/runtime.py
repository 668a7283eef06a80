"""OpenVINO's runtime: its version, its devices, and the precisions that each computes in."""

from __future__ import annotations

from functools import cache
from typing import Any

from tidegate.service.errors import EngineUnavailable

_CAPABILITIES = {"fp32": "FP32", "bf16": "BF16", "fp16": "FP16", "int8": "INT8"}
_HINTS = {"fp32": "f32", "bf16": "bf16", "fp16": "f16"}
_ADVICE = {
    "bf16": "It needs AVX-512-BF16 or AMX (Intel since Cooper Lake, AMD since Zen 4). Serve the "
    "fp32 or the int8 bundle of the model on this machine."
}


def load_openvino() -> Any:
    """Return the module openvino. Raises EngineUnavailable if it does not load."""
    try:
        import openvino
    except ImportError as error:
        raise EngineUnavailable(
            f"OpenVINO failed to load ({error}): pip install 'tidegate[openvino]'."
        ) from error
    return openvino


def runtime() -> str:
    """Return the runtime's name and version. Raises EngineUnavailable."""
    return f"openvino {load_openvino().__version__.partition('-')[0]}"


@cache  # its plugins load once, and each has threads
def core() -> Any:
    """Return the runtime. Raises EngineUnavailable if it is not installed."""
    return load_openvino().Core()


def check_device(device: str, precision: str) -> None:
    """Raise EngineUnavailable if `device` is missing or cannot compute in `precision`."""
    devices = core().available_devices
    if not any(device in (known, known.partition(".")[0]) for known in devices):
        raise EngineUnavailable(
            f"OpenVINO has no device {device} here; it has {', '.join(devices) or 'none'}."
        )
    able = _capabilities(device)
    if _CAPABILITIES[precision] not in able:
        others = " or ".join(name for name, word in _CAPABILITIES.items() if word in able)
        raise EngineUnavailable(
            f"The bundle is in {precision}, and {device_name(device)} has no instructions for it. "
            + _ADVICE.get(precision, f"Serve the model's bundle in {others}.")
        )


def precision_hint(device: str, precision: str) -> str:
    """Return the type in which `device` computes the float layers of a network in `precision`.

    The layers of int8 are in the graph; those beside them are exact if the device can.
    """
    if precision == "int8":
        precision = "fp32" if _CAPABILITIES["fp32"] in _capabilities(device) else "fp16"
    return _HINTS[precision]


def _capabilities(device: str) -> list[str]:
    return list(core().get_property(device, "OPTIMIZATION_CAPABILITIES"))


def device_name(device: str) -> str:
    """Return what the device calls itself."""
    return " ".join(str(core().get_property(device, "FULL_DEVICE_NAME")).split())
