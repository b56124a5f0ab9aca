"""`retouch up`: the whole stack in the foreground, on loopback.

`infra.local.members` defines the processes, and `infra.local.supervision` keeps them running. This module does the
steps in order: prepare, start, wait until ready, write `local.env`, watch, stop.
"""

import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import FrameType

import redis

from infra.local.embedded_servers import socket_directory
from infra.local.members import DRAIN_S, STAGES, Member, Members, UpOptions
from infra.local.program import StackError, write_private
from infra.local.supervision import Supervisor, SupervisorLostError, all_ended, exclusive
from jobs.foundation.errors import Unauthorized
from jobs.tenants.api_keys import make_api_keys

__all__ = ["UpOptions", "up"]

TENANT = "local"
_READY_S = 90
_POLL_S = 0.1
_WATCH_S = 1.0
_MAX_STOP_S = 2 * DRAIN_S  # longer than the longest grace period of a stage


def up(options: UpOptions) -> int:
    """Run the stack until SIGINT or SIGTERM, then drain and stop it. A second signal kills the remaining processes.

    Prints a line for each step and the line `ready`. An error is one line on stderr, followed by the end of the log
    of the failed process.

    Returns:
        The exit status: 0 after a signal, 2 for an invalid option, 1 for any other error.
    """
    try:
        options.check()
        _prepare_directory(options.data_dir)
        with _Signals() as signals, exclusive(options.data_dir / "up.lock"):
            _run(options, signals)
    except StackError as error:
        _print_error(str(error), error.log)
        return error.status
    except OSError as error:
        _print_error(f"{error.strerror or error}: {error.filename or options.data_dir}")
        return 1
    return 0


class _Signals:
    """Counts SIGINT, SIGTERM and SIGHUP, and waits for them."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> "_Signals":
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        signals = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup ignores it on purpose
            signals.append(signal.SIGHUP)
        self._handlers = {number: signal.signal(number, self._count) for number in signals}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._reader)
        os.close(self._writer)

    def _count(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1

    def wait(self, seconds: float) -> None:
        """Return at the next signal, or after this many seconds."""
        if select.select([self._reader], [], [], seconds)[0]:
            os.read(self._reader, 64)


def _run(options: UpOptions, signals: _Signals) -> None:
    local_env = options.data_dir / "local.env"
    local_env.unlink(missing_ok=True)  # a killed run does not remove it
    if not all_ended(options.data_dir):
        _print("waiting for processes of an earlier run to end")
        if not _wait_all_ended(options.data_dir, signals):
            raise StackError(f"processes of an earlier run still use {options.data_dir}")
    members = Members(options)
    stages = {stage: [member.program for member in members.all if member.stage == stage] for stage in STAGES}
    supervisor = Supervisor(members.directory, socket_directory(members.directory), stages)
    members.write_files()
    with closing(members), _stopping(supervisor, members, signals):
        supervisor.start()
        _print(f"starting on {options.data_dir}: edits go to {members.endpoint}")
        base, rest = ([m for m in members.all if (m.stage == STAGES[0]) is first] for first in (True, False))
        if _start(base, supervisor, signals) and _start(rest, supervisor, signals):
            try:
                write_private(local_env, members.local_env(_api_key(members)))
                _print(f"API {members.url} (docs at /docs), logs in {options.data_dir / 'logs'}")
                _print("ready")
                _watch(supervisor, signals)
            finally:
                # Commands use this file to find the stack. A stale file would point to closed ports.
                local_env.unlink(missing_ok=True)


def _start(members: Iterable[Member], supervisor: Supervisor, signals: _Signals) -> bool:
    """Launch these processes and wait. Returns True when all are ready, False at a signal.

    Raises:
        StackError: a process ended, or was not ready in time.
    """
    waiting = {member.program.name: member for member in members}
    for name in waiting:
        supervisor.launch(name)
    pids: dict[str, int] = {}
    deadline = time.monotonic() + _READY_S
    while waiting:
        if signals.count:
            return False
        states = supervisor.states()
        for name in waiting:
            state = states[name]
            if state.gone or state.state == "BACKOFF" or (pids.get(name) or state.pid) != state.pid:
                raise StackError(f"{name} cannot start", log=supervisor.log_tail(name))
            pids[name] = state.pid
        waiting = {name: member for name, member in waiting.items() if not member.is_ready()}
        if waiting and time.monotonic() > deadline:
            late = ", ".join(waiting)
            raise StackError(f"not ready within {_READY_S} s: {late}", log=supervisor.log_tail(next(iter(waiting))))
        signals.wait(_POLL_S)
    return True


def _watch(supervisor: Supervisor, signals: _Signals) -> None:
    """Print each restart of a process until a signal arrives.

    Raises:
        SupervisorLostError: supervisord ended.
    """
    known = supervisor.states()
    while not signals.count:
        signals.wait(_WATCH_S)
        states = supervisor.states()
        for name, state in states.items():
            if state.pid not in (0, known[name].pid):
                sys.stderr.write(f"retouch up: {name} ended and was restarted; see {supervisor.log(name)}\n")
            if state.pid:
                known[name] = state


@contextmanager
def _stopping(supervisor: Supervisor, members: Members, signals: _Signals) -> Iterator[None]:
    """Stop all processes when the block ends, also after an error.

    Raises:
        StackError: some processes did not end in time.
    """
    try:
        yield
    finally:
        with suppress(SupervisorLostError):  # then the kernel has sent SIGTERM to the programs
            _stop(supervisor, signals)
        supervisor.shutdown()
        if not _wait_all_ended(members.directory, signals):
            raise StackError(f"some processes have not ended yet; see {members.directory / 'logs'}")
        members.store.remove_sockets()
        shutil.rmtree(socket_directory(members.directory))


def _wait_all_ended(directory: Path, signals: _Signals) -> bool:
    """Wait until all processes have ended. Returns False at a signal or after the timeout."""
    before, deadline = signals.count, time.monotonic() + _MAX_STOP_S
    while not all_ended(directory):
        if signals.count > before or time.monotonic() > deadline:
            return False
        signals.wait(_POLL_S)
    return True


def _stop(supervisor: Supervisor, signals: _Signals) -> None:
    states = supervisor.states()
    if all(state.gone for state in states.values()):
        return
    _print("stopping: running edits may finish; press Ctrl-C again to stop at once")
    before = signals.count
    for stage in reversed(STAGES):
        supervisor.stop_stage(stage)
        names = supervisor.members(stage)
        deadline = time.monotonic() + _MAX_STOP_S
        while not all(state.gone for name, state in supervisor.states().items() if name in names):
            if signals.count > before or time.monotonic() > deadline:
                supervisor.kill()
            signals.wait(_POLL_S)
    _print("stopped")


def _api_key(members: Members) -> str:
    """Return an API key of the tenant `local`: the stored one if it is still valid, else a new one."""
    api_keys = make_api_keys(members.redis, members.settings)
    try:
        with suppress(Unauthorized):
            api_keys.authenticate(members.credentials.api_key)
            return members.credentials.api_key
        api_key = api_keys.create(TENANT, name="retouch up", admin=True)
    except redis.RedisError as error:
        raise StackError(f"cannot create an API key: {error}") from error
    members.credentials.with_api_key(api_key).save(members.directory / "secrets.json")
    return api_key


def _prepare_directory(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(directory / ".gitignore", "*\n")  # it contains secrets and may be inside a repository
    except OSError as error:
        raise StackError(f"cannot write to the data directory {directory}: {error.strerror}") from error


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _print_error(line: str, log: str = "") -> None:
    sys.stderr.write(f"retouch up: {line}\n" + "".join(f"  | {log_line}\n" for log_line in log.splitlines()))
    sys.stderr.flush()
