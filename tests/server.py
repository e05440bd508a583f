"""Starts `manage.py serve` or `whatsapp_gateway` as a user would, for end-to-end tests."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from django.db import connection

ROOT = Path(__file__).resolve().parent.parent
# A first start makes a database; two workers and a loaded machine stretch that.
START_SECONDS = 120.0
STOP_SECONDS = 60.0


class Server:
    """A process of ours. A context manager; leaving it ends the process."""

    def __init__(
        self, process: subprocess.Popen[bytes], log: Path, started: str
    ) -> None:
        """Keep the process, the file it writes to and the line that says it is up."""
        self.process = process
        self.log = log
        match = re.search(r"http://\S+", started)
        self.url = match[0] if match else ""
        self.ws_url = self.url.replace("http", "ws", 1)

    @classmethod
    def start(
        cls,
        folder: Path,
        env: Mapping[str, str] | None = None,
        *,
        port: int = 0,
        gateway: bool = True,
        command: str = "serve",
        database: str | None = None,
    ) -> Self:
        """Start a process and wait until it is up.

        Args:
            folder: where its output goes (tmp_path); every start has a file of its own.
            env: settings on top of this process's environment.
            port: of ``serve``; 0 takes a free one.
            gateway: False for pages only (``serve``).
            command: ``serve`` or ``whatsapp_gateway``.
            database: its DATABASE_URL; None is this test's database (the test needs
                django_db(transaction=True)), "" the embedded one under VAR_DIR.
        """
        arguments = [command]
        if command == "serve":
            arguments += ["--port", str(port), *([] if gateway else ["--no-gateway"])]
        log = folder / f"{command}-{time.monotonic_ns()}.log"
        url = database_url() if database is None else database
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "manage.py", *arguments],
                cwd=ROOT,
                env={**os.environ, "DATABASE_URL": url, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wanted = "Listening on" if command == "serve" else "Gateway running"
        try:
            return cls(process, log, _wait_for(wanted, process, log))
        except BaseException:  # a test's timeout, too, must leave nothing behind
            process.kill()
            process.wait()
            raise

    @property
    def pid(self) -> int:
        """The process's number."""
        return self.process.pid

    @property
    def logs(self) -> str:
        """All that it has written until now."""
        return self.log.read_text(errors="replace")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end, as an operator would; return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"It did not stop:\n{self.logs}") from None

    def kill(self) -> None:
        """End it without a chance to say good-bye."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        """Return the running server."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop it, unless the test has."""
        if self.process.poll() is None:
            self.stop()


def _wait_for(wanted: str, process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        for line in log.read_text(errors="replace").splitlines(keepends=True):
            if line.startswith(wanted) and line.endswith("\n"):
                return line
        if ended:
            break
        time.sleep(0.02)
    raise AssertionError(f"It did not start:\n{log.read_text(errors='replace')}")


def children(pid: int) -> list[int]:
    """Return the processes that ``pid`` has started and that have not ended."""
    found: list[int] = []
    # Every thread has children of its own; it may end while it is looked at, or all.
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                found += map(int, (task / "children").read_text().split())
    return found


def descendants(pid: int) -> list[int]:
    """Return the children of ``pid``, and theirs."""
    return [each for child in children(pid) for each in (child, *descendants(child))]


def wait_until_gone(pid: int, seconds: float = 60.0) -> None:
    """Wait for the end of a process; a zombie that nobody collects has ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return
        if state == "Z":
            return
        time.sleep(0.01)
    raise AssertionError(f"Process {pid} is still there.")


def database_url() -> str:
    """The address of the running test's own database."""
    config = connection.settings_dict
    address = f"{config['HOST']}:{config['PORT']}" if config["HOST"] else ""
    return (
        f"postgresql://{config['USER']}:{config['PASSWORD']}@{address}/{config['NAME']}"
    )
