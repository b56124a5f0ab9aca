"""Runs the stack's programs under supervisord: its configuration, and calls to its API.

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
    """The state of one program, as supervisord reports it.

    Attributes:
        state: one of STARTING, RUNNING, BACKOFF, STOPPING, STOPPED, EXITED, FATAL, UNKNOWN.
        pid: process id; 0 while it does not run.
    """

    state: str
    pid: int

    @property
    def gone(self) -> bool:
        """True if it does not run and supervisord will not restart it."""
        return self.state in _GONE


class SupervisorLostError(StackError):
    """supervisord no longer answers."""


class Supervisor:
    """One supervisord and its programs.

    Args:
        directory: data directory; `processes/` and `logs/` are created in it.
        sockets: directory for the socket; its path must be short (see `embedded.socket_directory`).
        stages: the programs of each stage, in start order; the programs of one stage start and stop together.
    """

    def __init__(self, directory: Path, sockets: Path, stages: Mapping[str, Sequence[Program]]) -> None:
        self._processes = directory / "processes"
        self._lock = _lock_file(directory)
        self._logs = directory / "logs"
        self._socket = sockets / "supervisor.sock"
        self._stages = {stage: tuple(programs) for stage, programs in stages.items() if programs}
        self._stage_of = {program.name: stage for stage, programs in self._stages.items() for program in programs}
        self._log_sizes: dict[str, int] = {}
        self._daemon: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Run supervisord. It starts no program yet.

        Raises:
            StackError: supervisord is not installed or does not answer.
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
                Program("supervisord", command).tethered(self._processes, lock=self._lock),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,  # Ctrl-C must reach only us: we stop the programs in order
            )
        deadline = time.monotonic() + _START_S
        while not self._answers():
            if self._daemon.poll() is not None or time.monotonic() > deadline:
                raise StackError("supervisord did not start", log=tail(output))
            time.sleep(_POLL_S)

    def launch(self, name: str) -> None:
        """Start one program. supervisord restarts it whenever it ends, until it is stopped."""
        log = self.log(name)
        self._log_sizes[name] = log.stat().st_size if log.exists() else 0
        with self._calls() as calls:
            calls.startProcess(self._full_name(name), False)

    def states(self) -> dict[str, ProcessState]:
        """Return the state of every program, by name.

        Raises:
            SupervisorLostError: supervisord does not answer.
        """
        with self._calls() as calls:
            return {info["name"]: ProcessState(info["statename"], info["pid"]) for info in calls.getAllProcessInfo()}

    def stop_stage(self, stage: str) -> None:
        """Send SIGTERM to the programs of a stage, and SIGKILL after the grace period of each; do not wait."""
        if stage in self._stages:
            with self._calls() as calls:
                calls.stopProcessGroup(stage, False)

    def kill(self) -> None:
        """Send SIGKILL to every program that is running or stopping."""
        with self._calls() as calls:
            calls.signalAllProcesses("KILL")

    def shutdown(self, timeout_s: float = 10) -> None:
        """Stop supervisord and all its programs. Safe to call at any time.

        Args:
            timeout_s: time before supervisord is killed; the kernel then sends SIGTERM to its programs.
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
        """Return the names of the programs of a stage."""
        return frozenset(program.name for program in self._stages.get(stage, ()))

    def log(self, name: str) -> Path:
        """Return the log file of a program; rotated files end with .1 and so on."""
        return self._logs / f"{name}.log"

    def log_tail(self, name: str) -> str:
        """Return the last lines that a program has written since it was launched."""
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
        """Connect to the API of supervisord: http://supervisord.org/api.html."""
        from supervisor.xmlrpc import SupervisorTransport  # noqa: PLC0415 - installed with the extra `local`

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
                command = program.tethered(self._processes, lock=self._lock)
                lines += [
                    "",
                    f"[program:{program.name}]",
                    f"command = {_escaped(shlex.join(command))}",
                    "autostart = false",
                    "autorestart = true",
                    "startsecs = 1",
                    # supervisord waits one second longer before each restart. It must never give up.
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
    """True if no process uses this data directory, supervisord and earlier runs included."""
    lock = _lock_file(directory)
    if not lock.exists():
        return True
    with lock.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _lock_file(directory: Path) -> Path:
    return directory / "processes" / "lock"


def _escaped(text: object) -> str:
    """Escape text for the configuration of supervisord, which expands percent signs."""
    return str(text).replace("%", "%%")


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file; the kernel releases it when this process ends.

    Raises:
        StackError: another process holds the lock.
    """
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            raise StackError(f"another `retouch up` (pid {file.read().strip()}) uses {path.parent}") from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
