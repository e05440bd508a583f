"""A Redis of the test's own."""

import contextlib
import random
import shutil
import socket
import subprocess
import time
from types import TracebackType
from typing import Self

START_SECONDS = 60.0
# Below those that the system hands out: nobody gets it while Redis is stopped, and no
# client that tries to reach it meets itself.
PORTS = range(15_000, 30_000)
PROGRAM = shutil.which("redis-server")
MISSING = "NOT TESTED: redis-server is not installed (as root: make test installs it)"


class RedisServer:
    """A running Redis that keeps nothing. A context manager; leaving it ends it."""

    def __init__(self) -> None:
        """Start on a free port and wait until it answers."""
        assert PROGRAM, MISSING
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        """Start it (again, on the same port)."""
        assert PROGRAM
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self._process = subprocess.Popen(
            [PROGRAM, *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                with socket.create_connection(
                    ("127.0.0.1", self.port), timeout=1
                ) as it:
                    it.sendall(b"PING\r\n")
                    if it.recv(16).startswith(b"+PONG"):
                        return
            except OSError:
                time.sleep(0.02)
        raise AssertionError("Redis did not start.")

    def kill(self) -> None:
        """End it without a chance to say good-bye."""
        self._process.kill()
        self._process.wait(START_SECONDS)

    def stop(self) -> None:
        """End it; twice does no harm."""
        self._process.terminate()
        self._process.wait(START_SECONDS)

    def __enter__(self) -> Self:
        """Return the running Redis."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it."""
        self.stop()


def free_port() -> int:
    """Return a port that nobody uses, and that the system gives to nobody."""
    while True:
        port = random.choice(PORTS)  # noqa: S311
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
