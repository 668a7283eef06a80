"""A command of a request that copies the drifted bundle as the next version: a stand-in for fit.

With an argument before the request's path it seals the bundle as that version instead.
"""

import os
import shutil
import sys
from pathlib import Path

from tidegate.service.bundle.store import MANIFEST, read_manifest


def main() -> None:
    """Write RETRAIN_OUT/RETRAIN_MODEL/RETRAIN_VERSION."""
    version = os.environ["RETRAIN_VERSION"] if len(sys.argv) == 2 else sys.argv[1]
    out = Path(os.environ["RETRAIN_OUT"]) / os.environ["RETRAIN_MODEL"] / version
    shutil.copytree(os.environ["RETRAIN_BUNDLE"], out)
    sealed = read_manifest(out).model_copy(update={"version": version})
    (out / MANIFEST).write_bytes(sealed.to_file())


if __name__ == "__main__":
    main()
