"""`python -m load_tests peers-install`: a separate virtual environment for each peer."""

import argparse
import subprocess
import sys
from pathlib import Path

from load_tests.peers.catalogue import ENVIRONMENTS, PEERS, Peer


def parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    options = argparse.ArgumentParser(
        prog="python -m load_tests peers-install",
        description="Create a virtual environment for each peer and install its requirements.txt. "
        "All together need about 3 GB.",
    )
    options.add_argument(
        "peers", nargs="*", metavar="NAME", help=f"from {', '.join(PEERS)} (default: all)"
    )
    options.add_argument("--into", type=Path, default=ENVIRONMENTS, metavar="DIR")
    options.add_argument(
        "--python", metavar="PATH", default=sys.executable, help="interpreter of the environments"
    )
    return options


def run(options: argparse.Namespace, _command_line: str) -> int:
    """Install the peers; 1 if an installation fails. Raises ValueError for an unknown name."""
    unknown = [name for name in options.peers if name not in PEERS]
    if unknown:
        raise ValueError(f"unknown peer {unknown[0]!r}; known: {', '.join(PEERS)}")
    failed = []
    for name in options.peers or PEERS:
        print(f"installing {name}", flush=True)
        try:
            install(PEERS[name], options.into, options.python)
        except subprocess.CalledProcessError:
            failed.append(name)
    for name in failed:
        print(f"not installed: {name}", file=sys.stderr)
    return 1 if failed else 0


def install(peer: Peer, into: Path, interpreter: str) -> None:
    """Recreate `into`/NAME. Raises CalledProcessError after pip has printed the reason."""
    folder = into / peer.name
    _call([interpreter, "-m", "venv", "--clear", str(folder)])
    pip = [str(peer.python(into)), "-m", "pip", "install", "--quiet"]
    _call([*pip, "--requirement", str(peer.requirements)])


def _call(command: list[str]) -> None:
    subprocess.run(command, check=True)  # noqa: S603  # fixed commands, no shell
