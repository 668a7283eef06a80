"""The commands that make bundles, so that `tidegate` can list them without importing them.

Their code is in `tidegate.models`. The service does not import it; only the chosen command is
imported, and an installation without it reports which extra is missing.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys

# command → its module in tidegate.models.commands, and its help
COMMANDS = {
    "demo": ("demo", "build the demo bundle, EfficientNet-Lite0 on ImageNet"),
    "demo-calibration": ("demo_calibration", "refit the demo's gate on photographs of packages"),
    "import": ("import_model", "make a sealed bundle from a trained model and image folders"),
    "train": ("train", "train a classifier on a folder of images and make its sealed bundle"),
    "fit": ("fit_bundle", "make a new bundle from a sealed one and other image folders"),
    "digits": ("digits", "train, fit and seal a small network on handwritten digits"),
    "export-plain": ("export_plain", "write a bundle's backbone for servers without a gate"),
    "probe-images": ("probe_images", "write the images that prove a preprocessing"),
    "gate-cost": ("gate_cost", "measure what the gate costs: scores in the graph, p-values"),
    "gate-scores": (
        "gate_scores",
        "compare the scores that decide with each alone, on seven models",
    ),
    "architectures": ("architectures", "export, seal and time every architecture in the table"),
    "gpu-report": ("gpu_report", "run the GPU tests and measure every engine on this GPU"),
    "retrain": ("retrain", "make the next version of a model from a request and new labels"),
    "retrain-request": ("retrain_request", "file a request for retraining when drift alerts fire"),
}
_PACKAGE = "tidegate.models"
_EXTRAS = {
    "onnx": "models",
    "rich": "models",
    "scipy": "fit",
    "matplotlib": "fit",
    "safetensors": "torch",
    "sklearn": "fit",
}


def run(name: str, arguments: list[str]) -> int:
    """Run a command and return its exit code: 0 success, 1 expected error, 130 interrupted.

    Raises the TidegateError that the command raises.
    """
    if importlib.util.find_spec(_PACKAGE) is None:
        return _fail(f"`tidegate {name}` is not installed: this installation can only serve")
    try:
        command = importlib.import_module(f"{_PACKAGE}.commands.{COMMANDS[name][0]}")
        command.run(command.parser().parse_args(arguments))
    except ModuleNotFoundError as error:
        if error.name not in _EXTRAS:
            raise
        extra = _EXTRAS[error.name]
        return _fail(
            f"`tidegate {name}` needs {error.name}: pip install 'tidegate[{extra}]' "
            f"(in a checkout: pip install -e '.[{extra}]')"
        )
    except OSError as error:  # a full disk, or no permission to write
        return _fail(f"{error.filename or 'file system'}: {error.strerror or error}")
    except KeyboardInterrupt as error:  # a training says how to go on
        return _fail(str(error) or "interrupted; no partial result was left in place", 130)
    return 0


def _fail(text: str, code: int = 1) -> int:
    print(f"tidegate: {text}", file=sys.stderr)
    return code
