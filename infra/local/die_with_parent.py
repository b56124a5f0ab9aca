"""Starts a program that must not outlive the process that started it.

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
    """Become the program that the file named by the first argument describes (see `infra.local.program.Program`)."""
    spec = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if sys.platform == "linux":
        # The kernel sends this when the thread that forked us ends, `kill -9` included. Other systems have no like.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if spec["held"]:
        # Shared and never released: the kernel drops it when the program has ended, however it ended.
        descriptor = os.open(spec["held"], os.O_RDWR | os.O_CREAT, 0o600)
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
        os.execvpe(command[0], command, environment)  # noqa: S606 - becoming the program is the purpose
    except OSError as error:
        sys.exit(f"cannot run {command[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
