"""One process of the stack: its command, its environment, and the error if it fails."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_LAUNCHER = Path(__file__).with_name("die_with_parent.py")
_TAIL_BYTES = 16 * 1024


class StackError(Exception):
    """The stack or one of its processes cannot run. The message is one line for the user.

    Attributes:
        status: exit status of the command: 2 for an invalid option, else 1.
        log: last lines of the log of the failed process; "" if there is none.
    """

    def __init__(self, message: str, *, status: int = 1, log: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.log = log


@dataclass(frozen=True)
class Program:
    """A process to run.

    Attributes:
        name: name of the process in logs and messages.
        command: absolute path of the executable, and its arguments.
        environment: variables to set, in addition to the inherited ones. They are written to a file with mode 0600.
        inherit: names of the variables to inherit; None inherits all. Inherited values are never written to disk.
        without: names of variables that are never inherited.
        directory: working directory; None keeps that of the parent.
        grace_s: seconds from SIGTERM to SIGKILL.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    inherit: tuple[str, ...] | None = None
    without: tuple[str, ...] = ()
    directory: Path | None = None
    grace_s: float = 10

    def tethered(self, directory: Path, *, lock: Path | None = None) -> tuple[str, ...]:
        """Return a command that runs this program and ends it (by SIGTERM) when the thread that started it ends.

        Args:
            directory: directory for the file that describes the program.
            lock: file on which the program holds a shared lock while it runs.
        """
        spec = directory / f"{self.name}.json"
        text = json.dumps(
            {
                "command": self.command,
                "environment": dict(self.environment),
                "inherit": self.inherit,
                "without": self.without,
                "directory": str(self.directory) if self.directory else None,
                "lock": str(lock) if lock else None,
            }
        )
        write_private(spec, text)
        return (sys.executable, "-I", "-S", str(_LAUNCHER), str(spec))


def write_private(path: Path, text: str) -> None:
    """Replace a file atomically. Only the owner may read it (mode 0600), and it is on disk when this returns."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def tail(path: Path, *, since: int = 0, lines: int = 15) -> str:
    """Return the last lines of a log that were written after byte `since`; "" if there are none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            begin = since if since <= size else 0  # the log was rotated since
            file.seek(max(begin, size - _TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
