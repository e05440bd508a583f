"""A PostgreSQL cluster of our own: made, started, found by others, stopped."""

import atexit
import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path
from typing import NamedTuple

from aiadmin.embedded.private import private_folder, secret, write_private
from aiadmin.embedded.runner import POSTGRES_MAJOR, Runner
from aiadmin.embedded.wheels import EmbeddedError

USER = "aiadmin"
# The one database that every cluster has from its first moment on: an interrupted
# first start cannot leave a cluster without it.
DATABASE = "postgres"
START_SECONDS = 30.0
STOP_SECONDS = 10.0
WAIT_SECONDS = 15.0
LOG_LIMIT = 10_000_000


class Address(NamedTuple):
    """Where the embedded PostgreSQL answers, and as whom."""

    port: int
    password: str
    host: str = "127.0.0.1"
    user: str = USER
    name: str = DATABASE

    @property
    def url(self) -> str:
        """The same as a DATABASE_URL."""
        return (
            f"postgresql://{self.user}:{self.password}@{self.host}:{self.port}"
            f"/{self.name}"
        )


class EmbeddedDatabase:
    """One PostgreSQL cluster under a folder, running while somebody needs it.

    A server (`serve`) owns it for its whole life and publishes its address;
    commands (`connect`) use the server's, or start it for their own time.
    """

    def __init__(self, var: Path, *, durable: bool = True) -> None:
        """Name the folder; nothing is started and nothing is written yet.

        Args:
            var: the cluster, its log and its lock live here.
            durable: False for tests, which need no safety against power cuts.
        """
        self.var = var
        self._durable = durable
        self._published = var / "database.url"
        self._mutex = threading.Lock()
        self._address: Address | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._lock_file: int | None = None

    def serve(self) -> Address:
        """Start the cluster for this process and publish its address.

        Raises:
            EmbeddedError: another server uses this folder, or PostgreSQL fails.
        """
        with self._mutex:
            deadline = time.monotonic() + WAIT_SECONDS
            while not self._lock("serve"):
                if self._running_server() or time.monotonic() > deadline:
                    raise EmbeddedError(
                        f"Another process ({self._owner()}) uses {self.var}. "
                        "Stop it, or set VAR_DIR to another folder."
                    )
                time.sleep(0.05)
            self._address = self._start()
            write_private(self._published, self._address.url)
            return self._address

    def connect(self) -> Address:
        """Return the running server's address; without one, start the cluster.

        Raises:
            EmbeddedError: PostgreSQL fails, or another command keeps it busy.
        """
        with self._mutex:
            if self._address:
                return self._address
            deadline = time.monotonic() + WAIT_SECONDS
            while not self._lock("command"):
                self._address = self._running_server()
                if self._address:
                    return self._address
                if time.monotonic() > deadline:
                    raise EmbeddedError(
                        f"Another command ({self._owner()}) uses {self.var}; "
                        "try again when it has finished."
                    )
                time.sleep(0.05)
            self._address = self._start()
            return self._address

    def find_server(self) -> Address | None:
        """Return the running server's address and use it; None without a server."""
        with self._mutex:
            self._address = self._address or self._running_server()
            return self._address

    def stop(self) -> None:
        """Stop the cluster if we started it."""
        with self._mutex:
            self._address = None
            if self._process:
                _end(self._process)
                self._process = None
            if self._lock_file is not None:
                self._published.unlink(missing_ok=True)
                os.close(self._lock_file)
                self._lock_file = None

    # Who uses the folder

    def _lock(self, role: str) -> bool:
        """Take the folder's lock, which the kernel gives back when we die."""
        try:
            private_folder(self.var)
            handle = os.open(self.var / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        except PermissionError as error:
            raise EmbeddedError(
                f"{self.var} belongs to another user. Run as that user, or set "
                "VAR_DIR to another folder."
            ) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return False
        self._published.unlink(missing_ok=True)
        os.truncate(handle, 0)
        os.write(handle, f"{role}, process {os.getpid()}".encode())
        self._lock_file = handle
        atexit.register(self.stop)
        return True

    def _owner(self) -> str:
        try:
            return (self.var / "lock").read_text() or "unknown"
        except OSError:
            return "unknown"

    def _running_server(self) -> Address | None:
        """The published address, if PostgreSQL itself says that it is there."""
        try:
            port = int(self._published.read_text().rsplit(":", 1)[1].split("/")[0])
        except (OSError, IndexError, ValueError):
            return None
        data = Runner.choose(self.var / "postgres").data
        status = PostmasterStatus.read(data)
        if not status or status.port != port or not (status.ready and status.alive):
            return None
        return Address(port, secret(self.var, "database_password"))

    # Start and stop

    def _start(self) -> Address:
        runner = Runner.choose(self.var / "postgres")
        data = runner.data
        self._wait_for_the_last_one(data)
        password = secret(self.var, "database_password")
        if not (data / "PG_VERSION").exists():
            self._make_cluster(runner, password)
        version = (data / "PG_VERSION").read_text().strip()
        if version != POSTGRES_MAJOR:
            raise EmbeddedError(
                f"{data} was made by PostgreSQL {version}, this is {POSTGRES_MAJOR}: "
                "dump it with the old version and load it into the new one."
            )
        for _ in range(3):
            port = _free_port()
            if self._run(runner, port):
                return Address(port, password)
        raise EmbeddedError(f"PostgreSQL does not start; see {self._log}.")

    @property
    def _log(self) -> Path:
        return self.var / "postgres.log"

    @staticmethod
    def _wait_for_the_last_one(data: Path) -> None:
        """After a kill -9 the old PostgreSQL needs a moment to end."""
        deadline = time.monotonic() + WAIT_SECONDS
        while (status := PostmasterStatus.read(data)) and status.alive:
            if status.number_reused:
                # Usual in containers, where a restart counts from 1 again.
                # PostgreSQL would refuse for ever; the lock says that we may.
                (data / "postmaster.pid").unlink()
                return
            if time.monotonic() > deadline:
                raise EmbeddedError(
                    f"A PostgreSQL (process {status.pid}) still runs on {data}."
                )
            time.sleep(0.05)

    def _make_cluster(self, runner: "Runner", password: str) -> None:
        data = runner.data
        # Made aside and moved: what carries the final name is complete.
        draft = data.with_name(data.name + ".new")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        runner.give(draft)
        password_file = draft.with_name("password.new")
        write_private(password_file, password)
        runner.give(password_file)
        options = [
            *("--pgdata", str(draft), "--username", USER, "--encoding=UTF8"),
            *("--auth=scram-sha-256", "--pwfile", str(password_file)),
            *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"),
        ]
        if not self._durable:
            options.append("--no-sync")
        try:
            with self._log.open("ab") as log:
                code = runner.spawn("initdb", options, log).wait(120)
        finally:
            password_file.unlink()
        if code:
            raise EmbeddedError(f"initdb failed; see {self._log}.")
        draft.rename(data)

    def _run(self, runner: "Runner", port: int) -> bool:
        """Start PostgreSQL; False if it ended before it was ready."""
        if self._log.exists() and self._log.stat().st_size > LOG_LIMIT:
            self._log.unlink()
        with self._log.open("ab") as log:
            process = runner.spawn("postgres", self._options(runner.data, port), log)
        self._process = process
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            status = PostmasterStatus.read(runner.data)
            if status and status.pid == process.pid and status.ready:
                return True
            if process.poll() is not None:
                break
            time.sleep(0.01)
        _end(process)
        self._process = None
        return False

    def _options(self, data: Path, port: int) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(port),
            "unix_socket_directories": "",
            "max_connections": "200",
            "timezone": "UTC",
            # Three processes less, for loads that never fill a disk's queue.
            "io_method": "sync",
            # Statements and details hold phones, creds and keys.
            "log_min_error_statement": "panic",
            "log_error_verbosity": "terse",
        }
        if not self._durable:
            settings |= {
                "fsync": "off",
                "synchronous_commit": "off",
                "full_page_writes": "off",
            }
        options = ["-D", str(data)]
        for name, value in settings.items():
            options += ["-c", f"{name}={value}"]
        return options


class PostmasterStatus(NamedTuple):
    """What PostgreSQL writes about itself into postmaster.pid."""

    pid: int
    port: int
    ready: bool

    @classmethod
    def read(cls, data: Path) -> "PostmasterStatus | None":
        """Read it from the cluster's folder; None if missing or half-written."""
        try:
            lines = (data / "postmaster.pid").read_text().splitlines()
            return cls(int(lines[0]), int(lines[3]), lines[7].strip() == "ready")
        except (OSError, IndexError, ValueError):
            return None

    @property
    def alive(self) -> bool:
        """Whether a process of this number exists (the file outlives a crash)."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True

    @property
    def number_reused(self) -> bool:
        """Whether the number belongs to another program now."""
        try:
            command = Path(f"/proc/{self.pid}/cmdline").read_bytes()
        except OSError:
            return False
        # A process that has just ended has no command left.
        return bool(command) and b"postgres" not in command


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _end(process: subprocess.Popen[bytes]) -> None:
    """End PostgreSQL: clients are cut off, everything is written, then it goes."""
    for sig in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
        if process.poll() is None:
            process.send_signal(sig)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
