"""`python -m tests.gpu_packages.standins FOLDER SCENARIO [ARGUMENT …]`: print its result as JSON.

A process of its own, because libraries cannot be unloaded. FOLDER has the compiled stand-ins;
arguments are JSON.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from tests.gpu_packages.standins.runtime import StandIn, install

if __name__ == "__main__":
    folder, scenario, *given = sys.argv[1:]
    standin = StandIn(Path(folder))
    install(standin)

    from tests.gpu_packages.standins import scenarios  # after the libraries

    result = getattr(scenarios, scenario)(standin, *map(json.loads, given))
    sys.stdout.write(f"{json.dumps(result)}\n")
    sys.stdout.flush()
    os._exit(0)  # the runtime's threads and the stand-ins need no clean end
