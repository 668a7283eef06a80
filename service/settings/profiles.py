"""Profiles: defaults for a kind of machine, chosen by TIDEGATE_PROFILE.

Settings in the environment win. A profile only changes defaults, so each of its values can be set
without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

MIB = 1 << 20
Profile = Literal["edge"]

# A small machine with one client or a few, such as a Raspberry Pi with a camera.
_EDGE: Mapping[str, Any] = MappingProxyType(
    {
        "engine": "onnx-cpu",  # OpenVINO needs more memory
        "slots": 1,  # on all cores: the shortest time for one image
        "max_batch_size": 1,
        "decode_threads": 1,
        "large_decoders": 1,
        "warm_up_limit_s": 10,
        "max_upload_bytes": 8 * MIB,
        "max_inflight_bytes": 32 * MIB,
        "max_image_pixels": 12_500_000,  # the cameras for the Raspberry Pi have 12.3 megapixels
        "max_queue": 64,
        "max_client_connections": 64,
        "rollback_s": 0,
        "max_loaded_versions": 2,
    }
)
PROFILES: Mapping[str, Mapping[str, Any]] = MappingProxyType({"edge": _EDGE})
