"""The service's commands, a module for each: `add()` declares it, and its `run` does it.

A command imports what it needs when it runs, so that no other command waits for it.
"""

from __future__ import annotations

import argparse
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
