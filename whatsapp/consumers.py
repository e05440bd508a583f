"""The WebSocket of the marketplace page.

A handler calls one service and returns: what comes of it is told to all pages of the
salon, by way of the committed row (see :mod:`whatsapp.page`).
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeAlias
from urllib.parse import parse_qs

import orjson
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.http.request import split_domain_port, validate_host
from django.utils import translation
from django.utils.translation import gettext as _
from django.utils.translation.trans_real import parse_accept_lang_header

from whatsapp import events, origins, page
from whatsapp.errors import ErrorCode, WhatsAppError
from whatsapp.events import Snapshot
from whatsapp.page import Event, PageView
from whatsapp.services import pairing, sessions, tokens
from whatsapp.services.pairing import Answer
from whatsapp.services.tokens import Grant
from whatsapp.watcher import database, watcher

logger = logging.getLogger(__name__)

SUBPROTOCOL = "aiadmin.v1"
BEARER = "bearer."
LANGUAGES = ("ru", "en")
ACTOR = "page"
AUTH_SECONDS = 5.0
MESSAGE_LIMIT = 64 * 1024
FLOOD_MESSAGES, FLOOD_SECONDS = 30, 10.0
INTERNAL_CLOSE = 1011
CLOSE_CODES = {
    ErrorCode.UNAUTHORIZED: 4401,
    ErrorCode.FORBIDDEN: 4403,
    ErrorCode.RATE_LIMITED: 4429,
}

Data: TypeAlias = dict[str, Any]


class MarketplaceConsumer(AsyncWebsocketConsumer):
    """One page of one salon."""

    # One listener serves all pages of the process: a page must open when the layer is
    # down, and the in-memory layer walks all its channels at every message.
    channel_layer_alias = "none"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.language = LANGUAGES[0]
        self._view = PageView()
        self._grant: Grant | None = None
        self._closing = False
        self._speaking = asyncio.Lock()
        self._arrivals: deque[float] = deque(maxlen=FLOOD_MESSAGES)
        self._auth_deadline: asyncio.Task[None] | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Run the socket; however it ends, nothing of it stays behind."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._closing = True
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

    @property
    def revision(self) -> int:
        """The state that the page knows."""
        return self._view.revision

    async def tell(self, snapshot: Snapshot) -> None:
        """Tell the page what is new in ``snapshot``."""
        await self._say(lambda: self._view.tell(snapshot))

    async def expire(self) -> None:
        """End the socket: its token is no longer valid."""
        await self._refuse(WhatsAppError(ErrorCode.UNAUTHORIZED))

    # --- connecting -------------------------------------------------------------------

    async def connect(self) -> None:
        """Accept first: only an accepted socket can be told why it is closed."""
        self.language = self._language("")
        offered = self.scope.get("subprotocols", [])
        await self.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
        if not self._origin_is_allowed():
            await self._refuse(WhatsAppError(ErrorCode.FORBIDDEN))
            return
        token = self._early_token()
        if token is None:
            self._auth_deadline = asyncio.create_task(self._expect_auth())
        else:
            await self._open(token)

    def _header(self, name: bytes) -> bytes | None:
        return next(
            (value for key, value in self.scope["headers"] if key == name), None
        )

    def _origin_is_allowed(self) -> bool:
        host = (self._header(b"host") or b"").decode("latin-1")
        domain, _port = split_domain_port(host)
        ours = bool(domain) and validate_host(domain, settings.ALLOWED_HOSTS)
        return origins.allowed(
            self._header(b"origin"),
            host if ours else None,
            settings.MARKETPLACE_ALLOWED_ORIGINS,
        )

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

    def _language(self, granted: str) -> str:
        query = parse_qs(self.scope.get("query_string", b"").decode("latin-1"))
        accepted = (self._header(b"accept-language") or b"").decode("latin-1")
        wishes = [*query.get("lang", []), granted]
        wishes += [tag[:2] for tag, _weight in parse_accept_lang_header(accepted)]
        return next((wish for wish in wishes if wish in LANGUAGES), LANGUAGES[0])

    async def _expect_auth(self) -> None:
        await asyncio.sleep(AUTH_SECONDS)
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
        try:
            self._grant = await database(tokens.verify, token)
            self.language = self._language(self.grant.language)
            await watcher().join(self)
            snapshot = await self._read_snapshot()
        except WhatsAppError as error:
            await self._refuse(error)
            return
        except Exception:
            logger.exception("A page could not be opened.")
            await self._error(WhatsAppError(ErrorCode.INTERNAL))
            await self._close(INTERNAL_CLOSE)
            return
        await self._say(lambda: self._view.welcome(snapshot))
        await self._run(self._page_opened, {})

    async def _page_opened(self, _data: Data) -> None:
        await database(pairing.page_opened, self.grant.salon, ACTOR)

    # --- receiving --------------------------------------------------------------------

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        """Take one message of the page."""
        if self._closing:
            return
        if self._is_flood():
            await self._refuse(WhatsAppError(ErrorCode.RATE_LIMITED))
            return
        message = _parse(text_data)
        if self._grant is None:
            await self._receive_auth(message)
        elif self.expires_at <= time.time():
            await self.expire()
        elif message is None:
            await self._error(WhatsAppError(ErrorCode.INVALID_MESSAGE))
        else:
            name, data = message
            handler = self._handlers().get(name)
            if handler is None:
                await self._error(WhatsAppError(ErrorCode.UNKNOWN_EVENT))
            else:
                await self._run(handler, data)

    def _is_flood(self) -> bool:
        now = time.monotonic()
        full = len(self._arrivals) == FLOOD_MESSAGES
        flood = full and now - self._arrivals[0] < FLOOD_SECONDS
        self._arrivals.append(now)
        return flood

    async def _receive_auth(self, message: tuple[str, Data] | None) -> None:
        if message is None or message[0] != events.AUTH:
            await self._refuse(WhatsAppError(ErrorCode.UNAUTHORIZED))
        else:
            await self._open(message[1].get("token"))

    def _handlers(self) -> dict[str, Callable[[Data], Awaitable[None]]]:
        return {
            events.REQUEST_QR: self._request_qr,
            events.REQUEST_PAIRING_CODE: self._request_code,
            events.RESET_CREDENTIALS: self._reset,
            events.DISCONNECT: self._disconnect,
            events.GET_STATUS: self._get_status,
            events.AUTH: self._renew,
        }

    async def _run(
        self, handler: Callable[[Data], Awaitable[None]], data: Data
    ) -> None:
        try:
            await handler(data)
        except WhatsAppError as error:
            await self._error(error)
        except Exception:
            logger.exception("A page's request failed.")
            await self._error(WhatsAppError(ErrorCode.INTERNAL))

    async def _request_qr(self, _data: Data) -> None:
        answer = await database(pairing.request_qr, self.grant.salon, ACTOR)
        if answer is Answer.SAME:
            await self._repeat(page.current_qr)
        elif answer is Answer.CONNECTED:
            await self._repeat(lambda state: page.connected(state, already=True))

    async def _request_code(self, data: Data) -> None:
        phone = data.get("phoneNumber")
        try:
            answer = await database(
                pairing.request_code, self.grant.salon, phone, ACTOR
            )
        except WhatsAppError as error:
            refusal = error  # the name ``error`` ends with this block
            await self._say(lambda: [page.refusal(events.PAIRING_CODE_ERROR, refusal)])
            if error.code is ErrorCode.ALREADY_CONNECTED:
                await self._get_status({})
            return
        if answer is Answer.SAME:
            await self._repeat(page.current_code)

    async def _reset(self, _data: Data) -> None:
        try:
            await database(sessions.reset, self.grant.salon, ACTOR)
        except Exception:
            logger.exception("A reset failed.")
            failure = WhatsAppError(ErrorCode.INTERNAL)
            await self._say(lambda: [page.refusal(events.RESET_ERROR, failure)])

    async def _disconnect(self, _data: Data) -> None:
        await database(sessions.disconnect, self.grant.salon, ACTOR)

    async def _get_status(self, _data: Data) -> None:
        await self._repeat(page.status)

    async def _renew(self, data: Data) -> None:
        """Take a fresh token for the same salon, so that a long-open page lives on."""
        grant = await database(tokens.verify, data.get("token"))
        if grant.salon != self.grant.salon:
            raise WhatsAppError(ErrorCode.FORBIDDEN)
        self._grant = grant

    # --- speaking ---------------------------------------------------------------------

    async def _read_snapshot(self) -> Snapshot:
        snapshot = await database(events.snapshot, self.salon_pk)
        if snapshot is None:
            raise WhatsAppError(ErrorCode.FORBIDDEN)
        return snapshot

    async def _repeat(self, what: Callable[[Snapshot], Event | None]) -> None:
        """Tell this page again what all pages were told before."""
        snapshot = await self._read_snapshot()

        def told() -> Iterable[Event]:
            news = self._view.tell(snapshot)
            again = what(snapshot) or page.status(snapshot)
            names = [name for name, _data in news]
            return news if again[0] in names else [*news, again]

        await self._say(told)

    async def _say(self, make: Callable[[], Iterable[Event]]) -> None:
        """Make events in the page's language and send them, none in between."""
        async with self._speaking:
            if self._closing:
                return
            with translation.override(self.language):
                told = list(make())
            for name, data in told:
                message = orjson.dumps({"event": name, "data": data})
                await self.send(text_data=message.decode())

    async def _error(self, error: WhatsAppError) -> None:
        await self._say(lambda: [page.refusal(events.ERROR, error)])

    async def _refuse(self, error: WhatsAppError) -> None:
        """Say why, and close."""

        def told() -> Iterable[Event]:
            name, data = page.refusal(events.ERROR, error)
            if error.code is ErrorCode.RATE_LIMITED:
                data["message"] = _(
                    "Too many requests from this page. Wait a minute and open it again."
                )
            return [(name, data)]

        await self._say(told)
        await self._close(CLOSE_CODES[error.code])

    async def _close(self, code: int) -> None:
        if not self._closing:
            self._closing = True
            await self.close(code=code)


def _parse(text: str | None) -> tuple[str, Data] | None:
    """Return event name and data of a message; None if it is not one."""
    if text is None or len(text) > MESSAGE_LIMIT:
        return None
    try:
        message = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(message, dict):
        return None
    name, data = message.get("event"), message.get("data")
    if not isinstance(name, str) or not isinstance(data, dict | None):
        return None
    return name, data or {}
