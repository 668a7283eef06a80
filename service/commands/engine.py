"""`tidegate engine build`."""

from __future__ import annotations

import argparse

from tidegate.service.commands import Commands
from tidegate.service.commands.progress import draw_progress
from tidegate.service.errors import EngineUnavailable


def add(commands: Commands) -> None:
    """Declare the command."""
    engine = commands.add_parser("engine", help="prepare the engine that runs a bundle")
    verbs = engine.add_subparsers(metavar="VERB", required=True)
    build = verbs.add_parser(
        "build", help="build a bundle's TensorRT plans for this machine's GPUs before startup"
    )
    build.add_argument("--bundle", help="bundle folder (TIDEGATE_BUNDLE)")
    build.add_argument(
        "--engine", choices=("tensorrt", "tensorrt-rtx"), help="default: TIDEGATE_ENGINE"
    )
    build.add_argument(
        "--precision",
        choices=("fp32", "fp16", "int8"),
        help="fail if the bundle has another precision",
    )
    build.set_defaults(run=_build)


def _build(arguments: argparse.Namespace) -> int:
    from tidegate.service.bundle.signature import open_trusted
    from tidegate.service.engines.choose import buckets_for
    from tidegate.service.engines.open_gpu import EngineRequest, build_plans
    from tidegate.service.settings import Settings

    settings = Settings.read({"bundle": arguments.bundle, "engine": arguments.engine})
    bundle = open_trusted(settings.bundle, settings.trusted_keys)
    manifest, config = bundle.manifest, settings.engine_config()
    if arguments.precision not in (None, manifest.precision):
        raise EngineUnavailable(
            f"{bundle.path} has precision {manifest.precision}, and its gate is calibrated for it. "
            f"Make a bundle with --precision {arguments.precision} and build that one."
        )
    engine = "tensorrt" if config.name == "auto" else config.name
    buckets = buckets_for(config.max_batch_size, manifest.engine.buckets)
    request = EngineRequest(bundle.model_path, engine, buckets, manifest.precision, draw_progress)
    for plan in build_plans(request, config.gpu):
        print(plan)
    return 0
