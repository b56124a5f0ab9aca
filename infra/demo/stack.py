"""The demo's own stack: `retouch up` as a process, started, awaited and stopped."""

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

_START_S = 200  # `retouch up` itself gives up on a part that is not ready long before
_STOP_S = 90


class DemoStack:
    """The embedded stack on free ports; it ends with us, however we end.

    Attributes:
        environment: what its `local.env` says.
        started_s: seconds until it was ready.
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
        self._said: list[str] = []
        self._ready = threading.Event()

    def __enter__(self) -> Self:
        """Start it and wait until it is ready.

        Raises:
            StackError: in the words of `retouch up`.
        """
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="retouch-demo-") as scratch:
            # A session of its own: Ctrl-C is for us, and we stop it in good order.
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                Program("stack", self._command).tethered(Path(scratch)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            threading.Thread(target=self._listen, daemon=True).start()
            try:
                in_time = self._ready.wait(_START_S)
                local_env = self.data_dir / "local.env"
                if not in_time or self._process.poll() is not None or not local_env.exists():
                    raise StackError("\n".join(self._said[-20:]) or "the stack did not start")
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
        """Of the API."""
        return self.environment["RETOUCH_URL"]

    @property
    def api_key(self) -> str:
        """Of the tenant `local`."""
        return self.environment["RETOUCH_API_KEY"]

    @property
    def simulates(self) -> bool:
        """Whether edits go to the simulator."""
        return "RETOUCH_SIMULATOR_URL" in self.environment

    @property
    def endpoint(self) -> str:
        """Where edits go, in the stack's own words."""
        return next((line.partition("edits go to ")[2] for line in self._said if "edits go to " in line), "")

    def _listen(self) -> None:
        """Read what it says, so that it never blocks, until its end."""
        if self._process is None or self._process.stdout is None:
            return
        for line in self._process.stdout:
            self._said.append(line.rstrip())
            if line.strip() == "ready":
                self._ready.set()
        self._process.wait()
        self._ready.set()

    def _stop(self) -> None:
        """End it: drained if it does that in time.

        Raises:
            StackError: it had to be killed.
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
