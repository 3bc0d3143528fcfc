"""One worker process, seen from the program that uses the sandbox."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nfcot_model.sandbox.limits import Limits
from nfcot_model.sandbox.wire import COUNT, REPLY, Reply

__all__ = ["WorkerDiedError", "WorkerProcess"]

_START_SECONDS = 30.0
_GRACE_SECONDS = 5.0
_KEPT_VARIABLES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
# The packages are stubs, so that the worker loads its own modules and nothing they would pull in.
_BOOT = """
import sys, types
folder = sys.argv[1]
for name in ("nfcot_model", "nfcot_model.sandbox"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [folder]
from nfcot_model.sandbox.worker import main
wall, *whole = sys.argv[2:]
main(float(wall), *map(int, whole))
"""


class WorkerDiedError(Exception):
    """The worker process ended, or did not answer in time, while a reply was due."""


class WorkerProcess:
    """A worker that is started, given batches of jobs, read, and killed.

    Raises OSError when it cannot be started. Not safe for two threads at once, except `kill`.
    """

    def __init__(self, limits: Limits) -> None:
        self._patience = limits.wall_seconds + _GRACE_SECONDS
        numbers = (
            limits.wall_seconds,
            limits.cpu_seconds,
            limits.memory_mib,
            limits.file_bytes,
            limits.output_bytes,
        )
        variables = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
        self._process = subprocess.Popen(
            [sys.executable, "-s", "-S", "-P", "-Wignore", "-c", _BOOT, str(Path(__file__).parent)]
            + [repr(number) for number in numbers],
            env={"PYTHONHASHSEED": "0", "PYTHONUTF8": "1", **variables},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            cwd="/",
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._poll = select.poll()
        self._poll.register(self._stream(self._process.stdout), select.POLLIN)
        try:
            _, _, layer = self._receive(time.monotonic() + _START_SECONDS)
        except WorkerDiedError:
            self.close()
            raise OSError("the sandbox worker did not start") from None
        self.layer = layer.decode()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def send(self, jobs: Sequence[dict[str, Any]]) -> None:
        """Hand over a batch; a reply to each must be received. Raises WorkerDiedError."""
        body = json.dumps(jobs).encode()
        message = memoryview(COUNT.pack(len(body)) + body)
        try:
            while message:
                message = message[os.write(self._stream(self._process.stdin), message) :]
        except BrokenPipeError:
            raise WorkerDiedError("the sandbox worker ended before it took the job") from None

    def receive(self) -> Reply:
        """The next reply: kind, seconds, body; see `wire`. Raises WorkerDiedError."""
        return self._receive(time.monotonic() + self._patience)

    def _receive(self, deadline: float) -> Reply:
        kind, seconds, size = REPLY.unpack(self._read(REPLY.size, deadline))
        return kind, seconds, self._read(size, deadline)

    def _read(self, size: int, deadline: float) -> bytes:
        parts: list[bytes] = []
        while size:
            if not self._poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise WorkerDiedError("the sandbox worker did not answer in time")
            part = os.read(self._stream(self._process.stdout), size)
            if not part:
                raise WorkerDiedError("the sandbox worker ended before it replied")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    @staticmethod
    def _stream(stream: Any) -> int:
        return int(stream.fileno())

    def kill(self) -> None:
        """End the process; what it was running dies with it."""
        self._process.kill()

    def close(self) -> None:
        """End the process, reap it and close its pipes."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
