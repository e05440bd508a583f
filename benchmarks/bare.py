"""The reference's handle: bare Baileys in a Node.js process of its own."""

import asyncio
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from tests.simulator import find_node

SCRIPT = Path(__file__).with_name("bare_baileys.js")
LINE_LIMIT = 1 << 26
SECONDS = 1800.0
"""Against hangs: thousands of logins take minutes."""


class BareError(Exception):
    """Bare Baileys failed at what it was asked for."""


class Bare:
    """A process full of bare Baileys. A context manager; leaving it ends the process."""

    def __init__(self, ws_url: str) -> None:
        """Keep where its WhatsApp is; nothing runs yet."""
        self._ws_url = ws_url
        self._ids = itertools.count(1)
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._process: asyncio.subprocess.Process
        self._reading: asyncio.Task[None]

    async def __aenter__(self) -> Self:
        """Start it."""
        self._process = await asyncio.create_subprocess_exec(
            find_node(),
            str(SCRIPT),
            self._ws_url,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_LIMIT,
        )
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *error: object) -> None:
        """End it: it does so when nobody can ask it any more."""
        assert self._process.stdin
        self._process.stdin.close()
        await self._process.wait()
        await self._reading

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    async def _read(self) -> None:
        assert self._process.stdout
        async for line in self._process.stdout:
            answer = json.loads(line)
            asked = self._asked.pop(answer["id"])
            if "error" in answer:
                asked.set_exception(BareError(answer["error"]))
            else:
                asked.set_result(answer["value"])
        for asked in self._asked.values():
            asked.set_exception(BareError("the process has ended"))

    async def ask(self, what: str, **params: object) -> Any:
        """Have it do something; return its answer.

        Raises:
            BareError: it failed.
        """
        assert self._process.stdin
        number = next(self._ids)
        self._asked[number] = asyncio.get_running_loop().create_future()
        command = json.dumps({"id": number, "do": what, **params})
        self._process.stdin.write(f"{command}\n".encode())
        async with asyncio.timeout(SECONDS):
            return await self._asked[number]

    async def code(
        self, phone: str, folder: Path | None = None, trace: Path | None = None
    ) -> tuple[str, float]:
        """Return a code, and the milliseconds from connecting to its acknowledgement."""
        given = {"folder": folder, "trace": trace}
        paths = {name: str(path) for name, path in given.items() if path}
        answer = await self.ask("code", phone=phone, **paths)
        return answer["code"], answer["ms"]

    async def opened(self, phone: str) -> None:
        """Wait until its session is open."""
        await self.ask("opened", phone=phone)

    async def resume(
        self,
        folders: Sequence[tuple[str, Path]],
        in_flight: int,
        trace: Path | None = None,
    ) -> list[float]:
        """Log in from folders; return the milliseconds until each was open."""
        named = [(phone, str(folder)) for phone, folder in folders]
        more = {"trace": str(trace)} if trace else {}
        answer = await self.ask("resume", folders=named, inFlight=in_flight, **more)
        times: list[float] = answer["ms"]
        return times

    async def close(self, phone: str | None = None) -> None:
        """End a session, or all."""
        await self.ask("close", **({"phone": phone} if phone else {}))

    async def stats(self) -> dict[str, Any]:
        """Return how many are open, how many messages have come, and its memory."""
        stats: dict[str, Any] = await self.ask("stats")
        return stats
