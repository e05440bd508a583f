"""The WebSocket of the marketplace page: a token opens it."""

import asyncio
import logging
import time
from typing import Any

from django.conf import settings
from django.utils.translation import gettext as _

from whatsapp import alerts, consumers, events, failures, origins
from whatsapp.alerts import Operation
from whatsapp.consumers.base import Data, Handler
from whatsapp.consumers.salon_page import SalonPage, read_opening
from whatsapp.errors import ErrorCode, WhatsAppError
from whatsapp.models import Salon
from whatsapp.roles import Action
from whatsapp.services import pairing, tokens
from whatsapp.services.tokens import Grant
from whatsapp.watcher import database, watcher

logger = logging.getLogger(__package__)

BEARER = "bearer."
ACTOR = "page"

# Sockets that have shown no token yet, by address, the oldest first.
_waiting: dict[str, dict["MarketplaceConsumer", None]] = {}


class MarketplaceConsumer(SalonPage):
    """One page of one salon."""

    page_name = "marketplace"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._grant: Grant | None = None
        self._auth_deadline: asyncio.Task[None] | None = None

    async def _clean_up(self) -> None:
        if self._auth_deadline is not None:
            # Gone without a word: as good as one that stays and says nothing.
            self._stop_waiting()
            self._count_refusal()
        if self._grant is not None:
            await watcher().leave(self)

    # --- what the watcher needs -------------------------------------------------------

    @property
    def grant(self) -> Grant:
        """What the page's token allows."""
        if self._grant is None:
            raise WhatsAppError(ErrorCode.UNAUTHORIZED)
        return self._grant

    @property
    def salon_pk(self) -> int:
        """Whose page it is."""
        return self.grant.salon.pk

    @property
    def expires_at(self) -> float:
        """When the token ends, and the socket with it."""
        return self.grant.expires_at

    async def expire(self) -> None:
        """End the socket: its token is no longer valid."""
        await self._refuse(WhatsAppError(ErrorCode.UNAUTHORIZED))

    def _tags(self, operation: Operation) -> dict[str, Any]:
        salon = self._grant.salon.session_id if self._grant else None
        return alerts.tags(operation, company_id=salon)

    # --- connecting -------------------------------------------------------------------

    def _origin_is_allowed(self) -> bool:
        return origins.allowed(
            self._header(b"origin"),
            self._own_host(),
            settings.MARKETPLACE_ALLOWED_ORIGINS,
        )

    async def _enter(self) -> None:
        token = self._early_token()
        if token is None:
            await self._wait_for_token()
        else:
            await self._open(token)

    def _early_token(self) -> str | None:
        """Return the token of the handshake; one in the URL would end up in logs."""
        scheme, _space, token = (
            (self._header(b"authorization") or b"").decode("latin-1").partition(" ")
        )
        if scheme.lower() == "bearer":
            return token.strip()
        for protocol in self.scope.get("subprotocols", []):
            if protocol.startswith(BEARER):
                return str(protocol).removeprefix(BEARER)
        return None

    # --- strangers --------------------------------------------------------------------

    async def _wait_for_token(self) -> None:
        """Wait for a first message with the token, and for so many at a time only.

        The oldest gives way, not the newest: a page says at once who it is, also where
        somebody behind the same address opens sockets and says nothing.
        """
        self._auth_deadline = asyncio.create_task(self._expect_auth())
        home = self._home()
        if not home:
            return
        waiting = _waiting.setdefault(home, {})
        waiting[self] = None
        if len(waiting) > consumers.WAITING_PER_ADDRESS:
            await next(iter(waiting))._give_way()

    async def _expect_auth(self) -> None:
        await asyncio.sleep(consumers.AUTH_SECONDS)
        self._auth_deadline = None
        self._stop_waiting()
        await self._refuse(self._stranger())

    async def _give_way(self) -> None:
        self._stop_waiting()
        self._count_refusal()
        await self._refuse(WhatsAppError(ErrorCode.RATE_LIMITED))

    def _stop_waiting(self) -> None:
        if self._auth_deadline is not None:
            self._auth_deadline.cancel()
            self._auth_deadline = None
        home = self._home()
        if self in _waiting.get(home, ()):
            del _waiting[home][self]
            if not _waiting[home]:
                del _waiting[home]

    async def _verified(self, token: object) -> Grant:
        try:
            return await database(tokens.verify, token)
        except tokens.Expired:
            raise
        except WhatsAppError as error:
            if error.code is ErrorCode.UNAUTHORIZED:
                raise self._stranger() from None
            raise

    def _stranger(self) -> WhatsAppError:
        """Return how somebody without a valid token is refused; too many are to wait.

        A valid one is taken all the same: all salons may come by one address, the
        marketplace's proxy.
        """
        wait = self._count_refusal()
        if wait:
            return WhatsAppError(ErrorCode.RATE_LIMITED, retry_after=wait)
        return WhatsAppError(ErrorCode.UNAUTHORIZED)

    def _count_refusal(self) -> int:
        home = self._home()
        if not home:
            return 0
        before = failures.TOKENS.wait(home)
        wait = failures.TOKENS.count(home)
        if wait and not before:
            logger.warning(
                "Pages from %s show no valid token; it is told to wait %s s", home, wait
            )
        return wait

    def _too_many(self) -> str:
        if self._grant is not None:
            return super()._too_many()
        return _(
            "Too many pages from your network came without a valid link. Wait a few "
            "minutes, then open the page again from the marketplace."
        )

    # --- opening ----------------------------------------------------------------------

    async def _open(self, token: object) -> None:
        """Let the page in: status first, then what goes on, then what it wants.

        It is told changes from before its state is read, so that none is lost.
        """
        self._stop_waiting()

        async def opening() -> None:
            self._grant = await self._verified(token)
            self.language = self._language(self.grant.language)
            await watcher().join(self)
            opened = await database(read_opening, self.grant.salon, may_link=True)
            await self._welcome(*opened)

        if await self._try_to_open(opening):
            await self._run(self._page_opened, {}, "whatsappInit")

    async def _page_opened(self, _data: Data) -> None:
        await database(pairing.page_opened, self.grant.salon, ACTOR)

    # --- receiving --------------------------------------------------------------------

    async def _take(self, message: tuple[str, Data] | None) -> None:
        if self._grant is None:
            await self._take_auth(message)
        elif self.expires_at <= time.time():
            await self.expire()
        else:
            await super()._take(message)

    async def _take_auth(self, message: tuple[str, Data] | None) -> None:
        if message is None or message[0] != events.AUTH:
            self._stop_waiting()
            await self._refuse(self._stranger())
        else:
            await self._open(message[1].get("token"))

    def _handlers(self) -> dict[str, Handler]:
        return {**super()._handlers(), events.AUTH: self._renew}

    async def _allowed(self, action: Action) -> tuple[Salon, str]:
        return self.grant.salon, ACTOR

    async def _renew(self, data: Data) -> None:
        """Take a fresh token for the same salon, so that a long-open page lives on."""
        grant = await database(tokens.verify, data.get("token"))
        if grant.salon != self.grant.salon:
            raise WhatsAppError(ErrorCode.FORBIDDEN)
        self._grant = grant
