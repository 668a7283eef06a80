"""Which versions a peer was measured with, asked of its own environment."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

from load_tests.peers.catalogue import PEERS

_COMMON = ("numpy", "onnxruntime", "pillow")
_ASK = (
    "import json, platform, sys\n"
    "from importlib.metadata import version\n"
    "found = {name: version(name) for name in sys.argv[1:]}\n"
    "print(json.dumps({'python': platform.python_version(), **found}))"
)


def versions(names: Sequence[str], environments: Path) -> dict[str, dict[str, str]]:
    """Package versions of each installed peer, its Python first."""
    return {name: _versions(name, environments) for name in names}


def _versions(name: str, environments: Path) -> dict[str, str]:
    peer = PEERS[name]
    command = [str(peer.python(environments)), "-c", _ASK, *peer.packages, *_COMMON]
    told = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603  # ours
    found: dict[str, str] = json.loads(told.stdout)
    return found
