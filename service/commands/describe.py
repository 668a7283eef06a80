"""`tidegate describe`."""

from __future__ import annotations

import argparse
import json

from tidegate.service.commands import Commands


def add(commands: Commands) -> None:
    """Declare the command."""
    describe = commands.add_parser("describe", help="show the resolved configuration")
    describe.add_argument("--bundle", help="bundle folder (TIDEGATE_BUNDLE)")
    describe.add_argument("--json", action="store_true", help="print JSON")
    describe.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from tidegate.service.bundle.store import open_bundle
    from tidegate.service.cpu import usable_cores
    from tidegate.service.settings import PREFIX, Settings

    settings = Settings.read({"bundle": arguments.bundle})
    wanted = settings.service_config().source.read()
    plan = wanted.plan.models[wanted.plan.default]
    bundle = open_bundle(wanted.folders[wanted.plan.default, plan.stable])
    manifest = bundle.manifest
    values = settings.model_dump(mode="json")
    if arguments.json:
        served = {
            "serves": {
                "name": bundle.manifest.name,
                "version": plan.stable,
                "digest": bundle.digest,
            },
            "models": {name: model.named for name, model in wanted.plan.models.items()},
        }
        print(json.dumps({**served, "cores": usable_cores(), "settings": values}, indent=2))
        return 0
    gate = manifest.gate
    print(f"serves    {manifest.name} {manifest.version}, digest {bundle.digest[:16]}")
    print(f"from      {bundle.path.resolve()}")
    for name, model in wanted.plan.models.items() if settings.models else ():
        aliases = ", ".join(f"{alias} {version}" for alias, version in model.named.items())
        print(f"model     {name}: {aliases}")
    for host in settings.hosts():
        print(f"at        http://{f'[{host}]' if ':' in host else host}:{settings.port}")
    if settings.unix_socket is not None:
        print(f"at        unix:{settings.unix_socket}")
    print(
        f"classes   {manifest.task.classes}, input {manifest.task.height} × {manifest.task.width}"
    )
    print(f"gate      reject p ≤ {gate.alpha_reject:g}, review p ≤ {gate.alpha_review:g}, ", end="")
    print(f"calibrated on {gate.fold_a} + {gate.fold_b} images")
    print(f"cores     {usable_cores()}\nsettings")
    for name, field in Settings.model_fields.items():
        print(f"  {PREFIX + name.upper():28} {values[name]!s:14} {field.description}")
    return 0
