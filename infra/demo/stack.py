"""The stack of the demo: a `retouch up` process."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from infra.local.ports import Ports
from infra.local.program import Program, StackError
from retouch.configuration import read_env_file

_START_S = 200  # longer than the timeout of `retouch up` itself
_STOP_S = 90


class DemoStack:
    """The local stack on free ports. It ends when this process ends, even by SIGKILL (on Linux).

    Attributes:
        environment: the variables of its `local.env`.
        started_s: seconds until the stack was ready.
    """

    def __init__(self, data_dir: Path, config: Path | None, *, simulator: str) -> None:
        self.data_dir = data_dir.absolute()
        self.environment: Mapping[str, str] = {}
        self.started_s = 0.0
        self._port = Ports().choose("api")
        arguments = ["--data-dir", str(self.data_dir), "--port", str(self._port), f"--simulator={simulator}"]
        if config is not None:
            arguments += ["--config", str(config)]
        self._command = (sys.executable, "-m", "retouch", "up", *arguments)
        self._process: subprocess.Popen[str] | None = None
        self._output: list[str] = []
        self._ready = threading.Event()

    def __enter__(self) -> Self:
        """Start the stack and wait until it is ready.

        Raises:
            StackError: the stack did not start; the message is the output of `retouch up`.
        """
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="retouch-demo-") as scratch:
            # A new session, so that Ctrl-C reaches only this process, which then stops the stack.
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                Program("stack", self._command).tethered(Path(scratch)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            threading.Thread(target=self._read_output, daemon=True).start()
            try:
                in_time = self._ready.wait(_START_S)
                local_env = self.data_dir / "local.env"
                if not in_time or self._process.poll() is not None or not local_env.exists():
                    raise StackError("\n".join(self._output[-20:]) or "the stack did not start")
                self.environment = read_env_file(local_env)
            except BaseException:
                self._stop()
                raise
        self.started_s = time.monotonic() - began
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def url(self) -> str:
        """URL of the API."""
        return self.environment["RETOUCH_URL"]

    @property
    def api_key(self) -> str:
        """API key of the tenant `local`."""
        return self.environment["RETOUCH_API_KEY"]

    @property
    def simulates(self) -> bool:
        """True if edits use the simulator."""
        return "RETOUCH_SIMULATOR_URL" in self.environment

    @property
    def endpoint(self) -> str:
        """The endpoint for edits, as `retouch up` describes it."""
        return next((line.partition("edits go to ")[2] for line in self._output if "edits go to " in line), "")

    def _read_output(self) -> None:
        """Read the output until the stack ends, so that the pipe never fills up."""
        if self._process is None or self._process.stdout is None:
            return
        for line in self._process.stdout:
            self._output.append(line.rstrip())
            if line.strip() == "ready":
                self._ready.set()
        self._process.wait()
        self._ready.set()

    def _stop(self) -> None:
        """Drain and stop the stack; kill it if that takes too long.

        Raises:
            StackError: the stack was killed.
        """
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise StackError("the stack did not stop in time and was killed") from None
