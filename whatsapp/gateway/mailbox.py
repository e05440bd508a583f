"""A salon's mailbox: one thing after the other, whatever comes and whenever."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from whatsapp.gateway.messages import Look, Message

Spawn = Callable[[Coroutine[Any, Any, None], str], asyncio.Task[None]]


class Mailbox:
    """Handles messages in order, in a task that lives only while there are any.

    Args:
        handle: handles one; its exceptions end nothing but must be its own business.
        spawn: starts a task that ends with the gateway.
        name: of that task.
        on_empty: called when all are handled.
    """

    def __init__(
        self,
        handle: Callable[[Message], Awaitable[None]],
        spawn: Spawn,
        name: str,
        on_empty: Callable[[], None],
    ) -> None:
        self._handle = handle
        self._spawn = spawn
        self._name = name
        self._on_empty = on_empty
        self._messages: deque[Message] = deque()
        self._drain: asyncio.Task[None] | None = None
        self._closed = False

    def put(self, message: Message) -> None:
        """Add a message; one look that waits is enough."""
        if isinstance(message, Look) and message in self._messages:
            return
        self._messages.append(message)
        if self._drain is None:
            self._drain = self._spawn(self._run(), self._name)

    def put_back(self, message: Message) -> None:
        """Let a message that is being handled come again, before all others."""
        self._messages.appendleft(message)

    def close(self) -> bool:
        """Handle nothing more; return whether a look was waiting."""
        self._closed = True
        return any(isinstance(message, Look) for message in self._messages)

    async def _run(self) -> None:
        try:
            while self._messages and not self._closed:
                await self._handle(self._messages.popleft())
        finally:
            self._drain = None
            self._on_empty()
