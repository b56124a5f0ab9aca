"""`retouch up`: the whole stack in the foreground, on loopback.

`infra.local.members` decides which processes run, `infra.local.supervision` keeps them running. This module has the
order of steps: prepare, start and await, announce (`local.env`, `ready`), watch, stop.
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
from infra.local.supervision import ProcessState, Supervisor, SupervisorLostError, all_ended, only_one
from jobs.foundation.errors import Unauthorized
from jobs.wiring import make_tenants

__all__ = ["UpOptions", "up"]

TENANT = "local"
_READY_S = 90
_POLL_S = 0.1
_WATCH_S = 1.0
_MAX_STOP_S = 2 * DRAIN_S  # more than the longest grace of a stage


def up(options: UpOptions) -> int:
    """Run the stack until SIGINT or SIGTERM, then drain and stop it; a second signal kills what still runs.

    Prints a line for each step and one line `ready`; a fault is one line on stderr, followed by the end of the log
    of the process at fault.

    Returns:
        The exit status: 0 after a signal, 2 for a wrong value of an option, 1 for anything else.
    """
    try:
        options.check()
        _prepare_directory(options.data_dir)
        with _Signals() as signals, only_one(options.data_dir / "up.lock"):
            _run(options, signals)
    except StackError as error:
        _complain(str(error), error.log)
        return error.status
    except OSError as error:
        _complain(f"{error.strerror or error}: {error.filename or options.data_dir}")
        return 1
    return 0


class _Signals:
    """Counts SIGINT, SIGTERM and SIGHUP, and lets the one thread wait for them."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> "_Signals":
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        signals = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup asks to live on without a terminal
            signals.append(signal.SIGHUP)
        self._handlers = {each: signal.signal(each, self._note) for each in signals}
        return self

    def __exit__(self, *_: object) -> None:
        for each, handler in self._handlers.items():
            signal.signal(each, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._reader)
        os.close(self._writer)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1

    def wait(self, seconds: float) -> None:
        """Return at the next signal, or when the time is over."""
        if select.select([self._reader], [], [], seconds)[0]:
            os.read(self._reader, 64)


def _run(options: UpOptions, signals: _Signals) -> None:
    local_env = options.data_dir / "local.env"
    local_env.unlink(missing_ok=True)  # a killed run leaves it behind
    if not all_ended(options.data_dir):
        _say("waiting for processes of an earlier run to end")
        if not _all_end(options.data_dir, signals):
            raise StackError(f"processes of an earlier run still use {options.data_dir}")
    members = Members(options)
    stages = {stage: [member.program for member in members.all if member.stage == stage] for stage in STAGES}
    supervisor = Supervisor(members.directory, socket_directory(members.directory), stages)
    members.write_files()
    with closing(members), _stopped_at_the_end(supervisor, members, signals):
        supervisor.start()
        _say(f"starting on {options.data_dir}: edits go to {members.endpoint}")
        base, rest = ([m for m in members.all if (m.stage == STAGES[0]) is first] for first in (True, False))
        if _start(base, supervisor, signals) and _start(rest, supervisor, signals):
            try:
                write_private(local_env, members.local_env(_api_key(members)))
                _say(f"API {members.url} (docs at /docs), logs in {options.data_dir / 'logs'}")
                _say("ready")
                _watch(supervisor, signals)
            finally:
                # Without it a command says that nothing runs here; with it, it would try dead ports.
                local_env.unlink(missing_ok=True)


def _start(members: Iterable[Member], supervisor: Supervisor, signals: _Signals) -> bool:
    """Launch these and return True when all are ready, False at a signal.

    Raises:
        StackError: one ended, or was not ready in time.
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
    """Return at a signal; until then tell of every process that ended and was started again.

    Raises:
        SupervisorLostError: supervisord ended.
    """
    known = supervisor.states()
    while not signals.count:
        signals.wait(_WATCH_S)
        states = supervisor.states()
        for name, state in states.items():
            if _began_again(known[name], state):
                sys.stderr.write(f"retouch up: {name} ended and was started again; see {supervisor.log(name)}\n")
            if state.pid:
                known[name] = state


def _began_again(before: ProcessState, now: ProcessState) -> bool:
    return now.pid not in (0, before.pid)


@contextmanager
def _stopped_at_the_end(supervisor: Supervisor, members: Members, signals: _Signals) -> Iterator[None]:
    """Stop everything when the block ends, however it ends, and leave no process behind.

    Raises:
        StackError: processes are left all the same.
    """
    try:
        yield
    finally:
        with suppress(SupervisorLostError):  # then the kernel has told the programs to end
            _stop(supervisor, signals)
        supervisor.shutdown()
        if not _all_end(members.directory, signals):
            raise StackError(f"some processes have not ended yet; see {members.directory / 'logs'}")
        members.store.remove_sockets()
        shutil.rmtree(socket_directory(members.directory))


def _all_end(directory: Path, signals: _Signals) -> bool:
    """Wait until no process is left, a signal comes or the time is over; whether none is left."""
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
    _say("stopping: running edits may finish; press Ctrl-C again to stop at once")
    before = signals.count
    for stage in reversed(STAGES):
        supervisor.stop_stage(stage)
        names = supervisor.members(stage)
        deadline = time.monotonic() + _MAX_STOP_S
        while not all(state.gone for name, state in supervisor.states().items() if name in names):
            if signals.count > before or time.monotonic() > deadline:
                supervisor.kill()
            signals.wait(_POLL_S)
    _say("stopped")


def _api_key(members: Members) -> str:
    """The key of the tenant `local`: the one kept from an earlier run while it is known, else a new one."""
    tenants = make_tenants(members.redis, members.settings)
    try:
        with suppress(Unauthorized):
            tenants.authenticate(members.credentials.api_key)
            return members.credentials.api_key
        made = tenants.create_key(TENANT, name="retouch up", admin=True)
    except redis.RedisError as error:
        raise StackError(f"no API key can be made: {error}") from error
    members.credentials.with_api_key(made).save(members.directory / "secrets.json")
    return made


def _prepare_directory(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(directory / ".gitignore", "*\n")  # it holds secrets, and lies in a working directory
    except OSError as error:
        raise StackError(f"cannot write to the data directory {directory}: {error.strerror}") from error


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _complain(line: str, log: str = "") -> None:
    sys.stderr.write(f"retouch up: {line}\n" + "".join(f"  | {each}\n" for each in log.splitlines()))
    sys.stderr.flush()
