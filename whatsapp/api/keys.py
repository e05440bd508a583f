"""Who asks: a program with a key; and what it may do to which salon."""

from django.http import HttpRequest
from ninja.security import HttpBearer

from whatsapp.errors import ErrorCode, WhatsAppError
from whatsapp.models import ApiKey, Salon
from whatsapp.roles import Action
from whatsapp.services import api_keys, looks, salons


class KeyAuth(HttpBearer):
    """Lets in whoever has a good key, at its own pace, to read what is true."""

    def authenticate(self, request: HttpRequest, token: str) -> ApiKey | None:
        """Return the key; None: missing, forged, expired and revoked look alike."""
        key = api_keys.authenticate(token)
        if key is not None:
            api_keys.take_turn(key)
            looks.before_reading()
        return key


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
