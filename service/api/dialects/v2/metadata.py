"""What the protocol says about the server and its models: metadata, configuration, statistics."""

from __future__ import annotations

from typing import Any

from tidegate.service.api.dialects.v2.model import (
    ModelName,
    columns,
    input_dims,
)
from tidegate.service.batching.statistics import Statistics, Total
from tidegate.service.catalog import Catalog, Model
from tidegate.service.served import Served

# What is listed is implemented: perf_analyzer fails if a listed extension does not answer.
EXTENSIONS = (
    "classification",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "schedule_policy",
    "statistics",
)
_NAME, _PLATFORM = "tidegate", "tidegate"
_CONFIG_TYPES = {"BYTES": "TYPE_STRING", "FP32": "TYPE_FP32", "INT32": "TYPE_INT32"}
_NOTHING: dict[str, int] = {"count": 0, "ns": 0}


def server_body(version: str) -> dict[str, Any]:
    """Describe the server."""
    return {"name": _NAME, "version": version, "extensions": EXTENSIONS}


def model_body(name: ModelName, model: Model, served: Served) -> dict[str, Any]:
    """Describe a version's input and outputs. A dimension of -1 is the number of images."""
    bundle = served.bundle
    return {
        "name": name.given,
        "versions": sorted(model.versions),
        "platform": _PLATFORM,
        "inputs": [
            {
                "name": name.input_name,
                "datatype": name.input_datatype,
                "shape": [-1, *input_dims(name, bundle)],
            }
        ],
        "outputs": [
            {
                "name": output.name,
                "datatype": output.datatype,
                "shape": [-1, columns(output, bundle)],
            }
            for output in name.outputs
        ],
    }


def config_body(name: ModelName, _: Model, served: Served, max_images: int) -> dict[str, Any]:
    """Return a version's configuration with the fields of Triton's that apply."""
    bundle = served.bundle
    pixels = name.takes_pixels
    return {
        "name": name.given,
        "platform": _PLATFORM,
        "backend": _NAME,
        "version_policy": {"all": {}},
        "max_batch_size": max_images,
        "input": [
            {
                "name": name.input_name,
                "data_type": "TYPE_UINT8" if pixels else "TYPE_STRING",
                "format": "FORMAT_NHWC" if pixels else "FORMAT_NONE",
                "dims": input_dims(name, bundle),
            }
        ],
        "output": [
            {
                "name": output.name,
                "data_type": _CONFIG_TYPES[output.datatype],
                "dims": [columns(output, bundle)],
                "label_filename": "labels.txt" if output.per_class else "",
            }
            for output in name.outputs
        ],
        "dynamic_batching": {},
    }


def stats_body(name: str, served: Served) -> dict[str, Any]:
    """Return what a version has done since it was loaded; each image counts.

    `compute_input` is decoding and preprocessing, `compute_infer` the engine, `compute_output` the
    gates.
    """
    statistics = served.lane.statistics
    return {
        "name": name,
        "version": served.version,
        "last_inference": int(1000 * statistics.last_answer),
        "inference_count": statistics.answered.count,
        "execution_count": sum(total.count for total in statistics.batches.values()),
        "inference_stats": _image_stats(statistics),
        "batch_stats": [
            {
                "batch_size": size,
                "compute_input": _NOTHING,
                "compute_infer": _total(total),
                "compute_output": _NOTHING,
            }
            for size, total in sorted(statistics.batches.items())
        ],
    }


def all_stats(catalog: Catalog) -> list[dict[str, Any]]:
    """Return the same of every version."""
    return [
        stats_body(model.name, served)
        for model in catalog.models.values()
        for served in model.versions.values()
    ]


def _image_stats(statistics: Statistics) -> dict[str, dict[str, int]]:
    return {
        "success": _total(statistics.answered),
        "fail": _total(statistics.failed),
        "queue": _total(statistics.queue),
        "compute_input": _total(statistics.decode),
        "compute_infer": _total(statistics.engine),
        "compute_output": _total(statistics.gates),
        "cache_hit": _NOTHING,
        "cache_miss": _NOTHING,
    }


def _total(total: Total) -> dict[str, int]:
    return {"count": total.count, "ns": total.ns}
