"""`tidegate serve`."""

from __future__ import annotations

import argparse

from tidegate.service.commands import Commands


def add(commands: Commands) -> None:
    """Declare the command."""
    serve = commands.add_parser("serve", help="serve a bundle over HTTP")
    serve.add_argument("--bundle", help="bundle folder (TIDEGATE_BUNDLE)")
    serve.add_argument("--host", help="addresses to listen on (TIDEGATE_HOST)")
    serve.add_argument("--port", type=int, help="TCP port (TIDEGATE_PORT)")
    serve.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from tidegate.service.app import run
    from tidegate.service.settings import Settings

    given = {name: getattr(arguments, name) for name in ("bundle", "host", "port")}
    return run(Settings.read(given))
