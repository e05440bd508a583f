"""Hears snapshots on the channel layer, and goes on trying while it is away."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

from channels.layers import get_channel_layer
from django.conf import settings

from whatsapp import alerts, events
from whatsapp.events import Snapshot

LAYER_SECONDS = 2.0


class Troubles:
    """What does not work at present; operators are told once, and when it is over."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._present: set[str] = set()

    def note(self, what: str, error: BaseException) -> None:
        """Say that something fails, if that is new."""
        if what not in self._present:
            self._present.add(what)
            self._log.error(
                "The %s of the pages fails.",
                what,
                exc_info=error,
                extra=alerts.tags("channel_layer" if what == "layer" else "look"),
            )

    def over(self, what: str) -> None:
        """Say that something works, if it did not."""
        if what in self._present:
            self._present.discard(what)
            self._log.info("The %s of the pages works again.", what)


class Listener:
    """One channel of the layer, which joins groups and hands on what they bring.

    Args:
        groups: returns the groups that are wanted now.
        hear: takes each snapshot.
        troubles: is told when the layer is away.
    """

    def __init__(
        self,
        groups: Callable[[], Iterable[str]],
        hear: Callable[[Snapshot], Awaitable[None]],
        troubles: Troubles,
    ) -> None:
        self._groups = groups
        self._hear = hear
        self._troubles = troubles
        self._channel: str | None = None
        self._tried = asyncio.Event()

    def prepare(self) -> None:
        """Let whoever joins wait for :meth:`run`, which is about to start."""
        self._tried.clear()

    async def run(self) -> None:
        """Hand on what comes by the layer; without the layer, try again and again."""
        layer = get_channel_layer()
        while layer is not None:
            channel = None
            try:
                async with asyncio.timeout(LAYER_SECONDS):
                    channel = await layer.new_channel()
                self._channel = channel
                await self.rejoin()
                self._tried.set()
                self._troubles.over("layer")
                while True:
                    message = await layer.receive(channel)
                    await self._hear(message["snapshot"])
            except events.LAYER_ERRORS as error:
                self._troubles.note("layer", error)
            finally:
                if self._channel == channel:
                    self._channel = None
                self._tried.set()
            await asyncio.sleep(settings.WHATSAPP_LOOK_INTERVAL)
        self._tried.set()

    async def join(self, group: str) -> None:
        """Join a group that is wanted from now on, if the layer is there."""
        try:
            async with asyncio.timeout(LAYER_SECONDS):
                await self._tried.wait()
                await self._add(group)
        except events.LAYER_ERRORS as error:
            self._troubles.note("layer", error)

    async def rejoin(self) -> None:
        """Join the groups again: layers forget members, by age or with a failure."""
        async with asyncio.timeout(LAYER_SECONDS):
            for group in list(self._groups()):
                await self._add(group)

    async def leave(self, group: str) -> None:
        """Leave a group that is no longer wanted, unless it is wanted again meanwhile."""
        layer = get_channel_layer()
        if layer is None or self._channel is None:
            return
        try:
            async with asyncio.timeout(LAYER_SECONDS):
                await layer.group_discard(group, self._channel)
                if group in set(self._groups()):
                    await self._add(group)
        except events.LAYER_ERRORS as error:
            self._troubles.note("layer", error)

    async def _add(self, group: str) -> None:
        layer = get_channel_layer()
        if layer is not None and self._channel is not None:
            await layer.group_add(group, self._channel)
