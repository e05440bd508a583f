"""The WebSocket of a salon's page in the staff's admin."""

from typing import Any

from whatsapp import events
from whatsapp.consumers.base import Data
from whatsapp.consumers.salon_page import SalonPage, read_opening
from whatsapp.consumers.staff import StaffSocket
from whatsapp.errors import ErrorCode, WhatsAppError
from whatsapp.models import Salon
from whatsapp.page import SECRETS, Event
from whatsapp.roles import Action
from whatsapp.services import logins, sessions
from whatsapp.services.logins import Rights
from whatsapp.watcher import database, watcher

SALON_PK_END = 2**31

HELPS_WITH = {
    events.REQUEST_QR: Action.LINK,
    events.REQUEST_PAIRING_CODE: Action.LINK,
    events.RESET_CREDENTIALS: Action.RESET,
}
"""What somebody must be allowed to be offered an event as the way out."""


class SalonConsumer(StaffSocket, SalonPage):
    """A salon's page as the staff has it open: what it shows depends on the role.

    To look begins nothing: no QR is asked for, and no session resumed.
    """

    page_name = "salon"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._actions: frozenset[Action] = frozenset()

    @property
    def salon_pk(self) -> int:
        """Whose page it is."""
        return int(self.scope["url_route"]["kwargs"]["pk"])

    @property
    def watches(self) -> bool:
        """Whether somebody in front of it may be about to scan or to type."""
        return Action.LINK in self._actions and self._view.attempt_is_open

    async def _accept_rights(self, rights: Rights) -> None:
        self._actions = rights.on(self.salon_pk)
        if Action.VIEW not in self._actions:
            await self._refuse(WhatsAppError(ErrorCode.FORBIDDEN))

    async def _open(self) -> None:
        """Let the page in.

        It is told changes from before its state is read, so that none is lost; and its
        rights are read after the watcher has it, so that no change of them is.
        """
        if self.salon_pk >= SALON_PK_END:
            raise WhatsAppError(ErrorCode.FORBIDDEN)
        await watcher().join_salon(self)
        salon, _actor = await self._allowed(Action.VIEW)
        may_link = Action.LINK in self._actions
        await self._welcome(*await database(read_opening, salon, may_link=may_link))
        await self._watch()

    async def _leave(self) -> None:
        await watcher().leave_salon(self)

    async def _allowed(self, action: Action) -> tuple[Salon, str]:
        await self._check()
        return await database(logins.salon, self.login, self.salon_pk, action)

    async def _request_qr(self, data: Data) -> None:
        await super()._request_qr(data)
        await self._watch()

    async def _watch(self) -> None:
        """Keep an attempt that is shown here from being cancelled as one nobody sees."""
        if self.watches:
            await database(sessions.watch, [self.salon_pk])

    def _permitted(self, told: list[Event]) -> list[Event]:
        if Action.LINK not in self._actions:
            told = [event for event in told if event[0] not in SECRETS]
        for name, data in told:
            needed = HELPS_WITH.get(data.get("action") or "", Action.VIEW)
            if name == events.STATUS and needed not in self._actions:
                data["action"] = None
        return told
