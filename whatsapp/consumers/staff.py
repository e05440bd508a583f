"""What the WebSockets of the staff's admin have in common: a login opens them."""

from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.utils.translation import gettext as _

from whatsapp import alerts, origins
from whatsapp.alerts import Operation
from whatsapp.consumers.base import Socket
from whatsapp.errors import ErrorCode, WhatsAppError
from whatsapp.page import Event
from whatsapp.services import logins
from whatsapp.services.logins import Login, Rights
from whatsapp.watcher import watcher


class StaffSocket(Socket):
    """A socket of somebody who is logged in, for as long as he is."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._login: Login | None = None

    async def _clean_up(self) -> None:
        if self._login is not None:
            await self._leave()

    async def _leave(self) -> None:
        """Leave the watcher, if it has been joined."""
        raise NotImplementedError

    def _tags(self, operation: Operation) -> dict[str, Any]:
        return alerts.tags(operation, component="admin")

    @property
    def login(self) -> Login:
        """Whose socket it is."""
        if self._login is None:
            raise WhatsAppError(ErrorCode.UNAUTHORIZED)
        return self._login

    async def judge(self, rights: Rights | None) -> None:
        """Go by what the login allows now; None: it is over."""
        if self._closing:
            return
        if rights is None:
            await self._refuse(WhatsAppError(ErrorCode.UNAUTHORIZED))
        else:
            await self._accept_rights(rights)

    async def _accept_rights(self, rights: Rights) -> None:
        raise NotImplementedError

    async def _check(self) -> None:
        """Judge this socket now.

        Raises:
            WhatsAppError: that has closed it; who asks gets no answer but that.
        """
        await watcher().check([self])
        if self._closing:
            raise WhatsAppError(ErrorCode.FORBIDDEN)

    # --- connecting -------------------------------------------------------------------

    def _origin_is_allowed(self) -> bool:
        """Let pages of our own in, and nobody else's: the browser adds the cookie to all."""
        return origins.is_own(
            self._header(b"origin"),
            self._own_host(),
            secure=settings.SESSION_COOKIE_SECURE,
        )

    def _language(self, granted: str) -> str:
        cookies: dict[str, str] = self.scope.get("cookies", {})
        return super()._language(
            granted or cookies.get(settings.LANGUAGE_COOKIE_NAME, "")
        )

    async def _enter(self) -> None:
        user = self.scope["user"]
        session_key = self.scope["session"].session_key
        if not isinstance(user, User) or not user.is_active or not session_key:
            await self._refuse(WhatsAppError(ErrorCode.UNAUTHORIZED))
            return
        self._login = logins.of(user, session_key)
        await self._try_to_open(self._open)

    async def _open(self) -> None:
        raise NotImplementedError

    # --- speaking ---------------------------------------------------------------------

    async def _failed(self, error: WhatsAppError) -> None:
        if error.code is ErrorCode.UNAUTHORIZED:
            await self._refuse(error)
        else:
            await self._error(error)

    def _worded(self, error: WhatsAppError) -> Event:
        name, data = super()._worded(error)
        if error.code is ErrorCode.UNAUTHORIZED:
            data["message"] = _("You are no longer logged in. Log in again.")
        elif error.code is ErrorCode.FORBIDDEN and self._login is not None:
            data["message"] = _("You have no right to this, or it does not exist.")
        return name, data
