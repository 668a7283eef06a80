"""A parent that outlives a server's main process, so that every process of the server is known.

`python -m load_tests.server.subreaper COMMAND…` runs the command in a new session and adopts its
orphaned processes (Linux's child subreaper). On stdout it prints one JSON object with the main
process's `pid`, and another with its `exit_code` and `after_s` when it exits. It exits when no
descendant is left, and kills them all if its own parent dies.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time

from load_tests.server.process_tree import kill

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36


def main() -> None:
    """Start the command, report, and reap until no descendant is left."""
    libc = ctypes.CDLL(None, use_errno=True)
    signal.signal(signal.SIGTERM, _abandoned)
    for option, value in ((_PR_SET_CHILD_SUBREAPER, 1), (_PR_SET_PDEATHSIG, signal.SIGTERM)):
        if libc.prctl(option, int(value), 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")
    start = time.monotonic()
    # Its output goes to our stderr, because our stdout is for the reports.
    process = subprocess.Popen(  # noqa: S603  # the caller's own command
        sys.argv[1:], stdin=subprocess.DEVNULL, stdout=sys.stderr, start_new_session=True
    )
    _report(pid=process.pid)
    while True:
        try:
            pid, status = os.wait()
        except ChildProcessError:  # none left
            return
        if pid == process.pid:
            process.returncode = os.waitstatus_to_exitcode(status)  # reaped here, not by Popen
            _report(exit_code=process.returncode, after_s=time.monotonic() - start)


def _abandoned(_number: int, _frame: object) -> None:
    kill(os.getpid())
    os._exit(128 + signal.SIGTERM)


def _report(**facts: float) -> None:
    print(json.dumps(facts), flush=True)


if __name__ == "__main__":
    main()
