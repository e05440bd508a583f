"""The protocol of one salon's page, whoever has it open."""

import logging
from collections.abc import Callable, Iterable
from typing import Any

from whatsapp import alerts, events, page
from whatsapp.consumers.base import Data, Handler, Socket
from whatsapp.errors import ErrorCode, WhatsAppError
from whatsapp.events import Snapshot
from whatsapp.models import Salon
from whatsapp.page import Event, PageView
from whatsapp.roles import Action
from whatsapp.services import pairing, salons, sessions
from whatsapp.services.pairing import Answer
from whatsapp.watcher import database

logger = logging.getLogger(__package__)


class SalonPage(Socket):
    """A page of one salon: it is told its state, and asks for a link, a stop, a reset."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._view = PageView()

    @property
    def salon_pk(self) -> int:
        """Whose page it is."""
        raise NotImplementedError

    @property
    def revision(self) -> int:
        """The state that the page knows."""
        return self._view.revision

    async def tell(self, snapshot: Snapshot) -> None:
        """Tell the page what is new in ``snapshot``."""
        await self._say(lambda: self._view.tell(snapshot))

    async def _allowed(self, action: Action) -> tuple[Salon, str]:
        """Return the salon, and who asks, if he may do ``action`` at this moment.

        Raises:
            WhatsAppError: he may not.
        """
        raise NotImplementedError

    async def _welcome(self, snapshot: Snapshot, phone: str) -> None:
        """Say where things stand: ``status`` first, then the salon's own number.

        The number is an event of its own because ``status`` goes to everybody who may
        look, and has it masked.
        """

        def told() -> Iterable[Event]:
            status, *rest = self._view.welcome(snapshot)
            return [status, *([page.known_phone(phone)] if phone else []), *rest]

        await self._say(told)

    # --- what a page asks for ---------------------------------------------------------

    def _handlers(self) -> dict[str, Handler]:
        return {
            events.REQUEST_QR: self._request_qr,
            events.REQUEST_PAIRING_CODE: self._request_code,
            events.RESET_CREDENTIALS: self._reset,
            events.DISCONNECT: self._disconnect,
            events.GET_STATUS: self._get_status,
        }

    async def _request_qr(self, data: Data) -> None:
        salon, actor = await self._allowed(Action.LINK)
        fresh = data.get("fresh") is True
        answer = await database(pairing.request_qr, salon, actor, fresh=fresh)
        if answer is Answer.SAME:
            await self._repeat(page.current_qr)
        elif answer is Answer.CONNECTED:
            await self._repeat(lambda state: page.connected(state, already=True))

    async def _request_code(self, data: Data) -> None:
        salon, actor = await self._allowed(Action.LINK)
        phone = data.get("phoneNumber")
        try:
            answer = await database(pairing.request_code, salon, phone, actor)
        except WhatsAppError as error:
            refusal = error  # the name ``error`` ends with this block
            await self._say(lambda: [page.refusal(events.PAIRING_CODE_ERROR, refusal)])
            if error.code is ErrorCode.ALREADY_CONNECTED:
                await self._repeat(page.status)
            return
        if answer is Answer.SAME:
            await self._repeat(page.current_code)

    async def _reset(self, _data: Data) -> None:
        salon, actor = await self._allowed(Action.RESET)
        try:
            await database(sessions.reset, salon, actor)
        except Exception:
            logger.exception(
                "A reset failed.",
                extra=alerts.tags(
                    "remove_auth_state",
                    component="baileys_auth",
                    company_id=salon.session_id,
                ),
            )
            failure = WhatsAppError(ErrorCode.INTERNAL)
            await self._say(lambda: [page.refusal(events.RESET_ERROR, failure)])

    async def _disconnect(self, _data: Data) -> None:
        salon, actor = await self._allowed(Action.DISCONNECT)
        await database(sessions.disconnect, salon, actor)

    async def _get_status(self, _data: Data) -> None:
        await self._allowed(Action.VIEW)
        await self._repeat(page.status)

    async def _repeat(self, what: Callable[[Snapshot], Event | None]) -> None:
        """Tell this page again what all pages were told before."""
        snapshot = await database(_snapshot, self.salon_pk)

        def told() -> Iterable[Event]:
            news = self._view.tell(snapshot)
            again = what(snapshot) or page.status(snapshot)
            names = [name for name, _data in news]
            return news if again[0] in names else [*news, again]

        await self._say(told)


def read_opening(salon: Salon, *, may_link: bool) -> tuple[Snapshot, str]:
    """Return what a page is welcomed with: the state, and the number to link again.

    Raises:
        WhatsAppError: FORBIDDEN, the salon is gone.
    """
    snapshot = _snapshot(salon.pk)
    wanted = may_link and not page.is_up(snapshot)
    return snapshot, salons.known_phone(salon) if wanted else ""


def _snapshot(salon_pk: int) -> Snapshot:
    snapshot = events.snapshot(salon_pk)
    if snapshot is None:
        raise WhatsAppError(ErrorCode.FORBIDDEN)
    return snapshot
