"""A parent that outlives a server's main process, so that nothing it started gets lost.

`python -m load_tests.server.subreaper COMMAND…` runs the command in a session of its own and adopts
what its processes leave behind (Linux's child subreaper). On stdout: one JSON object with the main
process's `pid`, another with its `exit_code` and `after_s` when it ends. It ends itself when no
descendant is left, and takes them all along when its own parent dies.
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
    """Start the command, report, reap until nothing is left."""
    libc = ctypes.CDLL(None, use_errno=True)
    signal.signal(signal.SIGTERM, _abandoned)
    for option, value in ((_PR_SET_CHILD_SUBREAPER, 1), (_PR_SET_PDEATHSIG, signal.SIGTERM)):
        if libc.prctl(option, int(value), 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")
    start = time.monotonic()
    # Its output goes where our stderr goes: our stdout is for what we report.
    process = subprocess.Popen(  # noqa: S603  # the command is the caller's own
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
