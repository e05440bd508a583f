"""The WebSocket of lists of salons in the staff's admin."""

from typing import Any

from whatsapp import consumers, events
from whatsapp.consumers.base import Data, Handler
from whatsapp.consumers.staff import StaffSocket
from whatsapp.errors import ErrorCode, WhatsAppError
from whatsapp.events import Snapshot
from whatsapp.roles import Action
from whatsapp.services import logins
from whatsapp.services.logins import Rights
from whatsapp.watcher import database, watcher


class SessionStatusConsumer(StaffSocket):
    """A list of salons: it says which it shows, and is told how they fare."""

    page_name = "list"

    async def show(self, frame: str) -> None:
        """Send what is new of the salons that are watched."""
        async with self._speaking:
            if not self._closing:
                await self.send(text_data=frame)
                self._sent.inc()

    async def _accept_rights(self, rights: Rights) -> None:
        if not rights.any:
            await self._refuse(WhatsAppError(ErrorCode.FORBIDDEN))
            return
        watcher().board.narrow(self, lambda pk: Action.VIEW in rights.on(pk))

    async def _open(self) -> None:
        await watcher().join_list(self)
        await self._check()

    async def _leave(self) -> None:
        await watcher().leave_list(self)

    def _handlers(self) -> dict[str, Handler]:
        return {events.WATCH: self._watch}

    async def _watch(self, data: Data) -> None:
        """Watch these salons from now on, in place of those before."""
        asked = _salon_pks(data.get("salons"))
        await self._check()
        visible = await database(logins.visible, self.login, asked)
        await watcher().board.watch(self, visible, _read)


async def _read(salon_pks: list[int]) -> dict[int, Snapshot]:
    return await database(events.snapshots, salon_pks)


def _salon_pks(value: Any) -> list[int]:
    """Return the salons that a page asks for.

    Raises:
        WhatsAppError: INVALID_MESSAGE, that is no list of them, or too long.
    """
    if not isinstance(value, list) or len(value) > consumers.SALONS_PER_LIST:
        raise WhatsAppError(ErrorCode.INVALID_MESSAGE)
    if any(type(pk) is not int for pk in value):
        raise WhatsAppError(ErrorCode.INVALID_MESSAGE)
    return [pk for pk in set(value) if 0 < pk < 2**31]
