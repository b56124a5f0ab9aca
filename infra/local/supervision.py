"""Runs the stack's programs under supervisord: what it is told, and what is asked of it.

supervisord restarts programs that die, and keeps and rotates their logs. `infra.local.up` starts each program when its
dependencies are ready. When the process that called `start` is killed, supervisord stops the programs in order and
ends; when supervisord is killed, every program gets SIGTERM (on Linux; see `infra.local.die_with_parent`).
"""

import fcntl
import importlib.util
import os
import shlex
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

from infra.local.program import Program, StackError, tail, write_private

_LOG_BYTES = 10 * 1024 * 1024
_LOG_BACKUPS = 3
_POLL_S = 0.05
_START_S = 20
_GONE = frozenset({"STOPPED", "EXITED", "FATAL", "UNKNOWN"})


@dataclass(frozen=True)
class ProcessState:
    """What supervisord knows of one program.

    Attributes:
        state: a name of supervisord's: STARTING, RUNNING, BACKOFF, STOPPING, STOPPED, EXITED, FATAL, UNKNOWN.
        pid: 0 while it does not run.
    """

    state: str
    pid: int

    @property
    def gone(self) -> bool:
        """Whether it has no process and will get none unless told."""
        return self.state in _GONE


class SupervisorLostError(StackError):
    """supervisord does not answer any more."""


class Supervisor:
    """One supervisord and its programs.

    Args:
        directory: of the data; `processes/` and `logs/` are made in it.
        sockets: a directory whose path is short enough for a socket's.
        stages: the programs, in the order of their start; those of one stage start and stop together.
    """

    def __init__(self, directory: Path, sockets: Path, stages: Mapping[str, Sequence[Program]]) -> None:
        self._processes = directory / "processes"
        self._held = _lock_of(directory)
        self._logs = directory / "logs"
        self._socket = sockets / "supervisor.sock"
        self._stages = {stage: tuple(programs) for stage, programs in stages.items() if programs}
        self._stage_of = {program.name: stage for stage, programs in self._stages.items() for program in programs}
        self._log_sizes: dict[str, int] = {}
        self._daemon: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Run supervisord, with no program started yet.

        Raises:
            StackError: it is not installed or does not answer.
        """
        if importlib.util.find_spec("supervisor") is None:
            raise StackError("the package supervisor is missing: pip install 'retouch[local]'")
        for directory in (self._processes, self._logs):
            directory.mkdir(mode=0o700, exist_ok=True)
        self._socket.unlink(missing_ok=True)
        configuration = self._processes / "supervisord.conf"
        write_private(configuration, self._configuration())
        command = (sys.executable, "-m", "supervisor.supervisord", "--silent", "-n", "-c", str(configuration))
        output = self._logs / "supervisord.out"
        with output.open("wb") as log:
            self._daemon = subprocess.Popen(  # noqa: S603 - our own command
                Program("supervisord", command).tethered(self._processes, held=self._held),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,  # Ctrl-C in a terminal is for us, who stop the programs in order
            )
        deadline = time.monotonic() + _START_S
        while not self._answers():
            if self._daemon.poll() is not None or time.monotonic() > deadline:
                raise StackError("supervisord did not start", log=tail(output))
            time.sleep(_POLL_S)

    def launch(self, name: str) -> None:
        """Start one program; it is started again whenever it ends, until it is stopped."""
        log = self.log(name)
        self._log_sizes[name] = log.stat().st_size if log.exists() else 0
        with self._calls() as calls:
            calls.startProcess(self._full_name(name), False)

    def states(self) -> dict[str, ProcessState]:
        """The state of every program by its name.

        Raises:
            SupervisorLostError: supervisord does not answer.
        """
        with self._calls() as calls:
            return {info["name"]: ProcessState(info["statename"], info["pid"]) for info in calls.getAllProcessInfo()}

    def stop_stage(self, stage: str) -> None:
        """Send SIGTERM to the programs of a stage, and SIGKILL to each when its grace is over; does not wait."""
        if stage in self._stages:
            with self._calls() as calls:
                calls.stopProcessGroup(stage, False)

    def kill(self) -> None:
        """Send SIGKILL to every program that runs or is stopping."""
        with self._calls() as calls:
            calls.signalAllProcesses("KILL")

    def shutdown(self, timeout_s: float = 10) -> None:
        """End supervisord, and what still runs of its programs. Safe to call at any time.

        Args:
            timeout_s: until it is killed; its programs are then sent SIGTERM by the kernel.
        """
        if self._daemon is None:
            return
        self._daemon.terminate()
        try:
            self._daemon.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._daemon.kill()
            self._daemon.wait()

    def members(self, stage: str) -> frozenset[str]:
        """The names of a stage's programs."""
        return frozenset(program.name for program in self._stages.get(stage, ()))

    def log(self, name: str) -> Path:
        """Where a program's output goes; older output is in files that end with .1 and so on."""
        return self._logs / f"{name}.log"

    def log_tail(self, name: str) -> str:
        """The last lines a program has written since it was launched."""
        return tail(self.log(name), since=self._log_sizes.get(name, 0))

    def _full_name(self, name: str) -> str:
        return f"{self._stage_of[name]}:{name}"

    def _answers(self) -> bool:
        try:
            with self._calls() as calls:
                return bool(calls.getState()["statename"] == "RUNNING")
        except SupervisorLostError:
            return False

    @contextmanager
    def _calls(self) -> Iterator[Any]:
        """The procedures of supervisord: http://supervisord.org/api.html."""
        from supervisor.xmlrpc import SupervisorTransport  # noqa: PLC0415 - of the extra `local`

        transport = SupervisorTransport(None, None, f"unix://{self._socket}")
        try:
            with xmlrpc.client.ServerProxy("http://localhost", transport=transport) as proxy:
                yield proxy.supervisor
        except xmlrpc.client.Fault as fault:
            raise StackError(f"supervisord refuses: {fault.faultString}") from fault
        except (OSError, HTTPException, xmlrpc.client.Error) as error:
            raise SupervisorLostError(f"supervisord does not answer: {error}") from error

    def _configuration(self) -> str:
        lines = [
            "[supervisord]",
            f"logfile = {_escaped(self._logs / 'supervisord.log')}",
            f"logfile_maxbytes = {_LOG_BYTES}",
            f"logfile_backups = {_LOG_BACKUPS}",
            f"pidfile = {_escaped(self._processes / 'supervisord.pid')}",
            f"childlogdir = {_escaped(self._logs)}",
            "",
            "[unix_http_server]",
            f"file = {_escaped(self._socket)}",
            "chmod = 0700",
            "",
            "[rpcinterface:supervisor]",
            "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface",
        ]
        for priority, (stage, programs) in enumerate(self._stages.items(), start=1):
            lines += [
                "",
                f"[group:{stage}]",
                f"programs = {','.join(program.name for program in programs)}",
                f"priority = {priority}",
            ]
            for program in programs:
                command = program.tethered(self._processes, held=self._held)
                lines += [
                    "",
                    f"[program:{program.name}]",
                    f"command = {_escaped(shlex.join(command))}",
                    "autostart = false",
                    "autorestart = true",
                    "startsecs = 1",
                    # Between tries it waits a second longer each time: a fault that lasts is retried for ever.
                    "startretries = 1000000",
                    f"stopwaitsecs = {round(program.grace_s)}",
                    "killasgroup = true",
                    "redirect_stderr = true",
                    f"stdout_logfile = {_escaped(self.log(program.name))}",
                    f"stdout_logfile_maxbytes = {_LOG_BYTES}",
                    f"stdout_logfile_backups = {_LOG_BACKUPS}",
                ]
        return "\n".join(lines) + "\n"


def all_ended(directory: Path) -> bool:
    """Whether no process of this data directory is left, supervisord included, of an earlier run neither."""
    lock = _lock_of(directory)
    if not lock.exists():
        return True
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _lock_of(directory: Path) -> Path:
    return directory / "processes" / "lock"


def _escaped(text: object) -> str:
    """For supervisord's configuration, which expands percent signs."""
    return str(text).replace("%", "%%")


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Hold a lock that no other process can hold at the same time; the kernel drops it when we end.

    Raises:
        StackError: another process holds it.
    """
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise StackError(f"another `retouch up` (pid {file.read().strip()}) runs on {path.parent}") from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
