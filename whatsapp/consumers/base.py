"""What every WebSocket of ours does: parse, hand to a handler, speak, refuse, close."""

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

from whatsapp import addresses, alerts, consumers, events, metrics, page
from whatsapp.alerts import Operation
from whatsapp.errors import ErrorCode, WhatsAppError
from whatsapp.page import Event

logger = logging.getLogger(__package__)

SUBPROTOCOL = "aiadmin.v1"
LANGUAGES = ("ru", "en")
INTERNAL_CLOSE = 1011
CLOSE_CODES = {
    ErrorCode.UNAUTHORIZED: 4401,
    ErrorCode.FORBIDDEN: 4403,
    ErrorCode.RATE_LIMITED: 4429,
}

OPERATIONS: dict[str, Operation] = {
    events.REQUEST_QR: "sendQR",
    events.REQUEST_PAIRING_CODE: "pairingCode",
}
"""What operators know a page's requests as."""

Data: TypeAlias = dict[str, Any]
Handler: TypeAlias = Callable[[Data], Awaitable[None]]


class Socket(AsyncWebsocketConsumer):
    """One WebSocket, whoever is at its other end."""

    # One listener serves all pages of the process: a page must open when the layer is
    # down, and the in-memory layer walks all its channels at every message.
    channel_layer_alias = "none"
    page_name = ""
    """Which page it is of, for the metrics."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.language = LANGUAGES[0]
        self._closing = False
        self._speaking = asyncio.Lock()
        self._arrivals: deque[float] = deque(maxlen=consumers.FLOOD_MESSAGES)
        self._received = metrics.page_messages.labels(self.page_name, "in")
        self._sent = metrics.page_messages.labels(self.page_name, "out")

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Run the socket; however it ends, nothing of it stays behind."""
        sockets = metrics.page_sockets.labels(self.page_name)
        sockets.inc()
        try:
            await super().__call__(scope, receive, send)
        finally:
            sockets.dec()
            self._closing = True
            await self._clean_up()

    async def _clean_up(self) -> None:
        """Take back what the socket has registered elsewhere."""

    # --- the handshake ----------------------------------------------------------------

    async def connect(self) -> None:
        """Accept first: only an accepted socket can be told why it is closed."""
        self.language = self._language("")
        offered = self.scope.get("subprotocols", [])
        await self.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
        if self._origin_is_allowed():
            await self._enter()
        else:
            await self._refuse(WhatsAppError(ErrorCode.FORBIDDEN))

    def _origin_is_allowed(self) -> bool:
        raise NotImplementedError

    async def _enter(self) -> None:
        """Let the socket in, which comes from where it may."""
        raise NotImplementedError

    async def _try_to_open(self, opening: Callable[[], Awaitable[None]]) -> bool:
        """Open the socket for its page, or say why not and close; return whether."""
        try:
            await opening()
        except WhatsAppError as error:
            await self._refuse(error)
            return False
        except Exception:
            logger.exception(
                "A page could not be opened.", extra=self._tags("whatsappInit")
            )
            await self._error(WhatsAppError(ErrorCode.INTERNAL))
            await self._close(INTERNAL_CLOSE)
            return False
        return not self._closing

    def _header(self, name: bytes) -> bytes | None:
        return next(
            (value for key, value in self.scope["headers"] if key == name), None
        )

    def _home(self) -> str:
        """Return who counts as one client with this one; "": nobody knows."""
        client = self.scope.get("client")
        return addresses.household(client[0]) if client else ""

    def _own_host(self) -> str | None:
        """Return the Host header, if it names us."""
        host = (self._header(b"host") or b"").decode("latin-1")
        domain, _port = split_domain_port(host)
        ours = bool(domain) and validate_host(domain, settings.ALLOWED_HOSTS)
        return host if ours else None

    def _language(self, granted: str) -> str:
        query = parse_qs(self.scope.get("query_string", b"").decode("latin-1"))
        accepted = (self._header(b"accept-language") or b"").decode("latin-1")
        wishes = [*query.get("lang", []), granted]
        wishes += [tag[:2] for tag, _weight in parse_accept_lang_header(accepted)]
        return next((wish for wish in wishes if wish in LANGUAGES), LANGUAGES[0])

    # --- receiving --------------------------------------------------------------------

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        """Take one message of the page."""
        if self._closing:
            return
        self._received.inc()
        if self._is_flood():
            await self._refuse(WhatsAppError(ErrorCode.RATE_LIMITED))
            return
        await self._take(_parse(text_data))

    async def _take(self, message: tuple[str, Data] | None) -> None:
        """Do what a message asks for; None: it was none."""
        if message is None:
            await self._error(WhatsAppError(ErrorCode.INVALID_MESSAGE))
            return
        name, data = message
        handler = self._handlers().get(name)
        if handler is None:
            await self._error(WhatsAppError(ErrorCode.UNKNOWN_EVENT))
        else:
            await self._run(handler, data, OPERATIONS.get(name, "page_request"))

    def _is_flood(self) -> bool:
        now = time.monotonic()
        full = len(self._arrivals) == self._arrivals.maxlen
        flood = full and now - self._arrivals[0] < consumers.FLOOD_SECONDS
        self._arrivals.append(now)
        return flood

    def _handlers(self) -> dict[str, Handler]:
        raise NotImplementedError

    async def _run(self, handler: Handler, data: Data, operation: Operation) -> None:
        try:
            await handler(data)
        except WhatsAppError as error:
            await self._failed(error)
        except Exception:
            logger.exception("A page's request failed.", extra=self._tags(operation))
            await self._error(WhatsAppError(ErrorCode.INTERNAL))

    def _tags(self, operation: Operation) -> dict[str, Any]:
        """Return what a failure of the page is reported with."""
        return alerts.tags(operation)

    async def _failed(self, error: WhatsAppError) -> None:
        """Say that a request was refused."""
        await self._error(error)

    # --- speaking ---------------------------------------------------------------------

    def _permitted(self, told: list[Event]) -> list[Event]:
        """Return those of the events that may be told here, at this moment."""
        return told

    async def _say(self, make: Callable[[], Iterable[Event]]) -> None:
        """Make events in the page's language and send them, none in between."""
        async with self._speaking:
            if self._closing:
                return
            with translation.override(self.language):
                told = self._permitted(list(make()))
            for name, data in told:
                message = orjson.dumps({"event": name, "data": data})
                await self.send(text_data=message.decode())
                self._note_sent(name, data)

    def _note_sent(self, name: str, data: Data) -> None:
        self._sent.inc()
        if name in events.ERRORS:
            metrics.page_errors.labels(self.page_name, data["code"]).inc()

    async def _error(self, error: WhatsAppError) -> None:
        await self._say(lambda: [self._worded(error)])

    async def _refuse(self, error: WhatsAppError) -> None:
        """Say why, and close."""

        def told() -> Iterable[Event]:
            name, data = self._worded(error)
            if error.code is ErrorCode.RATE_LIMITED:
                data["message"] = self._too_many()
            return [(name, data)]

        await self._say(told)
        await self._close(CLOSE_CODES[error.code])

    def _too_many(self) -> str:
        """Return the sentence for somebody who is refused because it was too much."""
        return _("Too many requests from this page. Wait a minute and open it again.")

    def _worded(self, error: WhatsAppError) -> Event:
        """Return the ``error`` event; its sentence must suit whoever reads it."""
        return page.refusal(events.ERROR, error)

    async def _close(self, code: int) -> None:
        if not self._closing:
            self._closing = True
            await self.close(code=code)


def _parse(text: str | None) -> tuple[str, Data] | None:
    """Return event name and data of a message; None if it is not one."""
    if text is None or len(text) > consumers.MESSAGE_LIMIT:
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
