"""Runs a program that must not outlive the process that started it.

It runs as a file (`python -I -S die_with_parent.py SPEC`) and imports only the standard library, since every process of
the stack starts through it. It becomes the program by `exec`: the pid stays, and signals reach the program itself.
"""

import ctypes
import fcntl
import json
import os
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    """Execute the program described in the file that the first argument names (see `infra.local.program.Program`)."""
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if sys.platform == "linux":
        # The kernel sends SIGTERM when the thread that forked us ends, even by SIGKILL. Other systems lack this.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if spec["lock"]:
        # Never unlocked here: the kernel releases the lock when the program ends, for any reason.
        descriptor = os.open(spec["lock"], os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        os.set_inheritable(descriptor, True)
    inherit, without = spec["inherit"], set(spec["without"])
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in without and (inherit is None or name in inherit)
    }
    environment.update(spec["environment"])
    if spec["directory"]:
        os.chdir(spec["directory"])
    command = spec["command"]
    try:
        os.execvpe(command[0], command, environment)  # noqa: S606 - no shell is needed
    except OSError as error:
        sys.exit(f"cannot run {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
