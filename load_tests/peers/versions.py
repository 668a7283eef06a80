"""Package versions of the peers, read from their environments."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

from load_tests.peers.catalogue import PEERS

_COMMON = ("numpy", "onnxruntime", "pillow")
_SCRIPT = (
    "import json, platform, sys\n"
    "from importlib.metadata import version\n"
    "found = {name: version(name) for name in sys.argv[1:]}\n"
    "print(json.dumps({'python': platform.python_version(), **found}))"
)


def versions(names: Sequence[str], environments: Path) -> dict[str, dict[str, str]]:
    """Return the package versions of each installed peer, its Python first."""
    return {name: _versions(name, environments) for name in names}


def _versions(name: str, environments: Path) -> dict[str, str]:
    peer = PEERS[name]
    command = [str(peer.python(environments)), "-c", _SCRIPT, *peer.packages, *_COMMON]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603  # ours
    found: dict[str, str] = json.loads(done.stdout)
    return found
