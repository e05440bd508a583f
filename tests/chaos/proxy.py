"""The network between one gateway and WhatsApp, which can fail in every usual way."""

import asyncio
import contextlib
from dataclasses import dataclass

CHUNK = 64 * 1024
HOST = "127.0.0.1"


@dataclass(eq=False)
class _Pipe:
    """One direction of one connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


class Proxy:
    """A TCP proxy in front of a port on this machine.

    Args:
        port: where the connections go.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._server: asyncio.Server | None = None
        self._pipes: set[_Pipe] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.delay = 0.0
        """Seconds that everything takes longer, each way."""
        self.port = 0

    async def start(self) -> None:
        """Listen, on the same port at every start."""
        self._server = await asyncio.start_server(self._accept, HOST, self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Refuse connections; those that there are stay."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def cut(self) -> None:
        """Reset every connection that there is."""
        for pipe in list(self._pipes):
            pipe.writer.transport.abort()

    def swallow(self) -> None:
        """Let nothing through any more, and say nothing of it: not even an end."""
        self._flowing.clear()

    def heal(self) -> None:
        """Let everything through; what was swallowed from is cut."""
        self.delay = 0.0
        if not self._flowing.is_set():
            self.cut()
            self._flowing.set()

    def _accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            there, back = await asyncio.open_connection(HOST, self._target)
        except OSError:
            writer.transport.abort()
            return
        pipes = (_Pipe(reader, back), _Pipe(there, writer))
        self._pipes.update(pipes)
        try:
            await asyncio.gather(*(self._carry(pipe) for pipe in pipes))
        finally:
            for pipe in pipes:
                pipe.writer.transport.abort()
                self._pipes.discard(pipe)

    async def _carry(self, pipe: _Pipe) -> None:
        """Carry one direction to its end, and the end, too."""
        chunks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        reading = asyncio.create_task(self._read(pipe.reader, chunks))
        try:
            while True:
                due, chunk = await chunks.get()
                await asyncio.sleep(due - asyncio.get_running_loop().time())
                await self._flowing.wait()
                if not chunk:
                    break
                pipe.writer.write(chunk)
                await pipe.writer.drain()
            pipe.writer.close()
        except OSError:
            pipe.writer.transport.abort()
        finally:
            reading.cancel()

    async def _read(
        self, reader: asyncio.StreamReader, chunks: asyncio.Queue[tuple[float, bytes]]
    ) -> None:
        loop = asyncio.get_running_loop()
        chunk = b"-"
        while chunk:
            chunk = b""
            # A reset is an end like any other.
            with contextlib.suppress(OSError):
                chunk = await reader.read(CHUNK)
            chunks.put_nowait((loop.time() + self.delay, chunk))
