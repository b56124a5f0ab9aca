"""One process of the stack: what to run, with which environment, and what is told when it cannot."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_LAUNCHER = Path(__file__).with_name("die_with_parent.py")
_TAIL_BYTES = 16 * 1024


class StackError(Exception):
    """The stack, or a part of it, cannot be had; the message is one line for a person.

    Attributes:
        status: exit status of a command that ends for it: 2 for a wrong value given by the user, else 1.
        log: last lines of the log of the process at fault; "" where there is none.
    """

    def __init__(self, message: str, *, status: int = 1, log: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.log = log


@dataclass(frozen=True)
class Program:
    """A process to run.

    Attributes:
        name: of the process in logs and messages.
        command: absolute path of the executable, and its arguments.
        environment: variables set for it, over what it inherits.
        inherit: names of the variables it takes from its starter; None takes all. A value that a process inherits
            is never written to disk, one in `environment` is (in a file of mode 0600).
        without: names it does not inherit in any case.
        directory: where it runs; None for its starter's.
        grace_s: seconds from SIGTERM to SIGKILL.
    """

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    inherit: tuple[str, ...] | None = None
    without: tuple[str, ...] = ()
    directory: Path | None = None
    grace_s: float = 10

    def tethered(self, directory: Path, *, held: Path | None = None) -> tuple[str, ...]:
        """The command that runs this program so that it ends (by SIGTERM) when the thread that starts it has ended.

        Args:
            directory: where the file is written that describes the program.
            held: a file the program keeps a shared lock on for as long as it lives.
        """
        spec = directory / f"{self.name}.json"
        text = json.dumps(
            {
                "command": self.command,
                "environment": dict(self.environment),
                "inherit": self.inherit,
                "without": self.without,
                "directory": str(self.directory) if self.directory else None,
                "held": str(held) if held else None,
            }
        )
        write_private(spec, text)
        return (sys.executable, "-I", "-S", str(_LAUNCHER), str(spec))


def write_private(path: Path, text: str) -> None:
    """Replace a file in one step by one that only its owner may read (mode 0600), on disk when this returns."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def tail(path: Path, *, since: int = 0, lines: int = 15) -> str:
    """The last lines of a log, of what was written after byte `since`; "" where nothing was."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            begin = since if since <= size else 0  # the log was rotated in between
            file.seek(max(begin, size - _TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-lines:])
