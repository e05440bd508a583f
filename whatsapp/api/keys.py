"""Who asks: a program with a key; and what it may do to which salon."""

import logging

from django.http import HttpRequest
from ninja.security import HttpBearer

from whatsapp import addresses, failures
from whatsapp.errors import ErrorCode, WhatsAppError
from whatsapp.models import ApiKey, Salon
from whatsapp.roles import Action
from whatsapp.services import api_keys, looks, salons

logger = logging.getLogger(__name__)


class KeyAuth(HttpBearer):
    """Lets in whoever has a good key, at its own pace, to read what is true."""

    def authenticate(self, request: HttpRequest, token: str) -> ApiKey | None:
        """Return the key; None: missing, forged, expired and revoked look alike.

        An address from which many are refused is told to wait. A good one is taken all
        the same: many programs may share an address, and its proxy.
        """
        key = api_keys.authenticate(token)
        if key is not None:
            api_keys.take_turn(key)
            looks.before_reading()
            return key
        wait = _refused(addresses.household(request.META.get("REMOTE_ADDR", "")))
        if wait:
            raise WhatsAppError(ErrorCode.TOO_MANY_REQUESTS, retry_after=wait)
        return None


def _refused(home: str) -> int:
    """Count a refused key; return the seconds to wait."""
    if not home:
        return 0
    before = failures.API_KEYS.wait(home)
    wait = failures.API_KEYS.count(home)
    if wait and not before:
        logger.warning("Keys from %s are refused; it is told to wait %s s", home, wait)
    return wait


def key_of(request: HttpRequest, action: Action) -> ApiKey:
    """Return the key of a request, if it has the scope for ``action``.

    Raises:
        WhatsAppError: FORBIDDEN, whichever salon it is about.
    """
    key: ApiKey = request.auth  # type: ignore[attr-defined]  # set by ninja
    if action not in key.actions:
        raise WhatsAppError(ErrorCode.FORBIDDEN)
    return key


def salon_of(request: HttpRequest, name: str, action: Action) -> Salon:
    """Return the salon that a request is about.

    Raises:
        WhatsAppError: FORBIDDEN without the scope; NOT_FOUND for a salon that is not
            here or is another's.
    """
    key = key_of(request, action)
    try:
        return salons.find(name, Salon.objects.for_key(key, action))
    except Salon.DoesNotExist:
        raise WhatsAppError(ErrorCode.NOT_FOUND) from None


def asked_of(request: HttpRequest, name: str, action: Action) -> tuple[Salon, str]:
    """Return the salon that a change is about, and who asks for it, for the audit.

    Raises:
        WhatsAppError: as for :func:`salon_of`.
    """
    found = salon_of(request, name, action)
    return found, api_keys.actor(key_of(request, action))
