"""One life of the Node.js process: start, requests and answers, its log, its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from whatsapp.engine import protocol
from whatsapp.engine.errors import EngineError, EngineGone

logger = logging.getLogger(__name__)

MAIN = Path(__file__).parent / "node" / "main.js"
# A first login writes 812 pre-keys in one message; a history could be far larger.
MAX_MESSAGE = 64 * 1024 * 1024
MAX_LOG_LINE = 1024 * 1024
# Node.js gets nothing else of our environment: the rest holds secrets.
PASSED_ON = ("HOME", "LANG", "NODE_EXTRA_CA_CERTS", "PATH", "SSL_CERT_FILE", "TZ")

_OWN_LINE = re.compile(r"(DEBUG|INFO|WARNING|ERROR) (.*)")
_SECRET = re.compile(r"[A-Za-z0-9+/_-]{24,}={0,2}|\d{5,}")


class Child:
    """A running Node.js. Use :meth:`spawn`; end it with :meth:`end`."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        name: str,
    ) -> None:
        self._name = name
        self._process = process
        self._reader = reader
        self._writer = writer
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._next_id = 1
        self._outgoing: list[bytes] = []
        self._gone = False
        self._last_words = ""
        # Both are pipes: see spawn().
        stdout = cast("asyncio.StreamReader", process.stdout)
        stderr = cast("asyncio.StreamReader", process.stderr)
        self._logs = (
            asyncio.create_task(self._log_stdout(stdout)),
            asyncio.create_task(self._log_stderr(stderr)),
        )

    @classmethod
    async def spawn(cls, node: str, heap_mb: int, name: str) -> Child:
        """Start Node.js with one end of a socketpair.

        Args:
            name: for the log.

        Raises:
            OSError: there is no such program.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            # First the pipe: a process is the last thing that can be left behind.
            reader, writer = await asyncio.open_unix_connection(
                sock=ours, limit=MAX_MESSAGE
            )
            try:
                process = await asyncio.create_subprocess_exec(
                    node,
                    f"--max-old-space-size={heap_mb}",
                    str(MAIN),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE,
                    pass_fds=[theirs.fileno()],
                    env=_environment(theirs.fileno()),
                    limit=MAX_LOG_LINE,
                    # A Ctrl-C is for us; Node.js ends when we close the pipe.
                    start_new_session=True,
                )
            except BaseException:
                writer.close()
                raise
        return cls(process, reader, writer, name)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def read(self, on_message: Callable[[protocol.Message], None]) -> None:
        """Hand on what Node.js says until it is gone; answers go to who asked."""
        try:
            while line := await self._reader.readline():
                try:
                    message = protocol.decode(line)
                except ValueError:
                    logger.warning("%s sent a line that is no message", self._name)
                    continue
                if "re" in message:
                    self._on_answer(message)
                else:
                    on_message(message)
        except OSError:
            logger.debug("the pipe broke")
        finally:
            self._on_gone()

    def send(self, message: protocol.Message) -> None:
        """Say something; what is said in one round of the event loop goes out together."""
        if self._gone:
            return
        if not self._outgoing:
            asyncio.get_running_loop().call_soon(self._flush)
        self._outgoing.append(protocol.encode(message))

    def _flush(self) -> None:
        if self._outgoing:
            self._writer.write(b"".join(self._outgoing))
            self._outgoing.clear()

    async def request(self, cmd: str, *, within: float, **fields: object) -> Any:
        """Ask for one thing and wait for the answer.

        Raises:
            EngineGone: Node.js is gone, or went.
            EngineError: it could not; the text says why.
            CodeRefused: it was a code, and there is none.
            TimeoutError: no answer in time.
        """
        if self._gone:
            raise EngineGone("Node.js is not running")
        request_id = self._next_id
        self._next_id += 1
        answer = asyncio.get_running_loop().create_future()
        self._asked[request_id] = answer
        try:
            self.send({"id": request_id, "cmd": cmd, **fields})
            async with asyncio.timeout(within):
                return await answer
        finally:
            del self._asked[request_id]

    def _on_answer(self, message: protocol.Message) -> None:
        answer = self._asked.get(message["re"])
        if answer is None or answer.done():
            return
        if "refused" in message:
            answer.set_exception(protocol.refusal(message["refused"]))
        elif "error" in message:
            answer.set_exception(EngineError(message["error"]))
        else:
            answer.set_result(message["value"])

    def _on_gone(self) -> None:
        self._gone = True
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(EngineGone("Node.js is gone"))

    def kill(self) -> None:
        """For a Node.js that does not answer any more."""
        # Not the process's own kill(): it would take the exit code of one that has
        # just died away from who waits for it.
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)

    async def end(self) -> tuple[int, str]:
        """Close the pipe, make sure that the process is gone; exit code and last words."""
        self._on_gone()
        self._flush()
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
        self.kill()
        code = await self._process.wait()
        await asyncio.gather(*self._logs)
        return code, self._last_words or f"exit code {code}"

    async def _log_stdout(self, stream: asyncio.StreamReader) -> None:
        # Nobody may write there: if a library does, what it writes may be secret.
        while chunk := await stream.read(MAX_LOG_LINE):
            logger.warning("%s: %d bytes on stdout, not shown", self._name, len(chunk))

    async def _log_stderr(self, stream: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await stream.readline()
            except ValueError:
                logger.warning("%s: a log line is too long", self._name)
                continue
            if not line:
                return
            self._log_line(line.decode(errors="replace").rstrip())

    def _log_line(self, line: str) -> None:
        if own := _OWN_LINE.fullmatch(line):
            level, text = logging.getLevelNamesMapping()[own[1]], own[2]
        else:
            # Node.js itself, before it dies: an out-of-memory report, a stack.
            level, text = logging.WARNING, _SECRET.sub("***", line)[:200]
        if level >= logging.WARNING:
            self._last_words = text
        logger.log(level, "%s: %s", self._name, text)


def _environment(fd: int) -> dict[str, str]:
    passed = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return {**passed, "ENGINE_FD": str(fd)}
