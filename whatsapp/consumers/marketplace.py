"""The WebSocket of the marketplace page: a token opens it."""

import asyncio
import time
from typing import Any

from django.conf import settings

from whatsapp import consumers, events, origins
from whatsapp.consumers.base import Data, Handler
from whatsapp.consumers.salon_page import SalonPage, read_opening
from whatsapp.errors import ErrorCode, WhatsAppError
from whatsapp.models import Salon
from whatsapp.roles import Action
from whatsapp.services import pairing, tokens
from whatsapp.services.tokens import Grant
from whatsapp.watcher import database, watcher

BEARER = "bearer."
ACTOR = "page"


class MarketplaceConsumer(SalonPage):
    """One page of one salon."""

    page_name = "marketplace"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._grant: Grant | None = None
        self._auth_deadline: asyncio.Task[None] | None = None

    async def _clean_up(self) -> None:
        self._stop_auth_deadline()
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
            self._auth_deadline = asyncio.create_task(self._expect_auth())
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

    async def _expect_auth(self) -> None:
        await asyncio.sleep(consumers.AUTH_SECONDS)
        self._auth_deadline = None
        await self._refuse(WhatsAppError(ErrorCode.UNAUTHORIZED))

    def _stop_auth_deadline(self) -> None:
        if self._auth_deadline is not None:
            self._auth_deadline.cancel()
            self._auth_deadline = None

    async def _open(self, token: object) -> None:
        """Let the page in: status first, then what goes on, then what it wants.

        It is told changes from before its state is read, so that none is lost.
        """
        self._stop_auth_deadline()

        async def opening() -> None:
            self._grant = await database(tokens.verify, token)
            self.language = self._language(self.grant.language)
            await watcher().join(self)
            opened = await database(read_opening, self.grant.salon, may_link=True)
            await self._welcome(*opened)

        if await self._try_to_open(opening):
            await self._run(self._page_opened, {})

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
            await self._refuse(WhatsAppError(ErrorCode.UNAUTHORIZED))
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
