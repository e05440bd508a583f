"""Keys of the API: made and shown once, recognised, kept to their pace, revoked."""

import hashlib
import hmac
import re
import secrets
import string
from collections.abc import Iterable
from datetime import timedelta
from typing import TYPE_CHECKING

from django.conf import settings
from django.core.exceptions import PermissionDenied
from django.db import connection, transaction
from django.db.models import Q
from django.db.models.functions import Now

from whatsapp.errors import ErrorCode, WhatsAppError
from whatsapp.models import ApiKey, Salon, User
from whatsapp.roles import Action, Scope, scopes_may
from whatsapp.services import audit, staff

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractUser

BEGINNING = "wak_"
NAME = re.compile(r"[\w.@+-]([\w .@+-]{0,98}[\w.@+-])?")
MOST_DAYS = 3650
_LETTERS = string.ascii_lowercase + string.digits
_FORM = re.compile(r"wak_([a-z0-9]{10})_[\w-]{43}", re.ASCII)


def actor(key: ApiKey) -> str:
    """Return the name of a key in the audit."""
    return f"key:{key.name}"


# --- made and revoked -----------------------------------------------------------------


def may_manage(by: User, salon: Salon | None) -> bool:
    """Say whether ``by`` may make and revoke keys of ``salon`` (None: service keys)."""
    if salon is None:
        return staff.is_support(by)
    return Action.MANAGE_KEYS in staff.may(by, salon)


def create(
    who: str,
    salon: Salon | None,
    name: str,
    scopes: Iterable[str],
    lifetime: timedelta | None,
) -> tuple[ApiKey, str]:
    """Make a key.

    Args:
        who: makes it, for the audit; whether he may has been judged.
        salon: that it opens; None: all of them.
        name: of the program, by which the audit calls it.
        scopes: what it is for.
        lifetime: for how long; None: until it is revoked.

    Returns:
        The key's row, and the key itself, which nobody can be told again.

    Raises:
        ValueError: the name or a scope makes no sense, or the name is taken.
    """
    wanted = sorted(set(scopes))
    _check(name, wanted)
    prefix, text = _new_key()
    with transaction.atomic():
        # Two at once with one name: the constraint refuses the second.
        if ApiKey.objects.filter(salon=salon, name=name).exists():
            raise ValueError(f"There is a key {name!r} already, perhaps a revoked one.")
        key = ApiKey.objects.create(
            salon=salon,
            name=name,
            prefix=prefix,
            digest=_digest(text),
            scopes=wanted,
            created_by=who,
            expires_at=None if lifetime is None else Now() + lifetime,
        )
        _record(key, who, "key_created")
    key.refresh_from_db()
    return key, text


def _check(name: str, scopes: list[str]) -> None:
    if not NAME.fullmatch(name):
        raise ValueError(
            "The name of a key has 1 to 100 letters, digits, spaces and . @ + - _."
        )
    if not scopes or not set(scopes) <= set(Scope):
        raise ValueError(f"The scopes of a key are some of: {', '.join(Scope)}.")


def _new_key() -> tuple[str, str]:
    """Return the beginning that finds a new key's row, and the whole key."""
    prefix = "".join(secrets.choice(_LETTERS) for _ in range(10))
    return prefix, f"{BEGINNING}{prefix}_{secrets.token_urlsafe(32)}"


def create_by(
    by: "AbstractUser",
    salon: Salon | None,
    name: str,
    scopes: Iterable[str],
    lifetime: timedelta | None,
) -> tuple[ApiKey, str]:
    """Make a key that a person of the staff asks for.

    Raises:
        PermissionDenied: he may not, or has less than the key would have.
        ValueError: as for :func:`create`.
    """
    wanted = list(scopes)
    if not may_manage(by, salon):
        raise PermissionDenied
    if salon is not None and not scopes_may(wanted) <= staff.may(by, salon):
        raise PermissionDenied
    return create(staff.actor(by), salon, name, wanted, lifetime)


def revoke(who: str, key: ApiKey) -> bool:
    """End a key, from its next request on; return False if it was ended before."""
    with transaction.atomic():
        ended = ApiKey.objects.filter(pk=key.pk, revoked_at=None).update(
            revoked_at=Now()
        )
        if ended:
            _record(key, who, "key_revoked")
    return bool(ended)


def _record(key: ApiKey, who: str, action: str) -> None:
    # Not "key": values under that name are taken for secrets by the scrubber.
    audit.record(key.salon_id, who, action, program=key.name, scopes=key.scopes)


# --- used -----------------------------------------------------------------------------


def authenticate(text: str) -> ApiKey | None:
    """Return the key that a program has sent, if it is good; else nothing says why."""
    form = _FORM.fullmatch(text)
    if form is None:
        return None
    key = (
        ApiKey.objects.filter(prefix=form[1], revoked_at=None)
        .filter(Q(expires_at=None) | Q(expires_at__gt=Now()))
        .first()
    )
    digest = _digest(text)
    if key is None or not hmac.compare_digest(key.digest, digest):
        return None
    return key


# The row that keeps the pace also says when the key was last used: one write for both.
_TAKE_TURN = """
UPDATE whatsapp_apikey
SET busy_until = greatest(busy_until, statement_timestamp()) + make_interval(secs => %(step)s),
    last_used_at = statement_timestamp()
WHERE id = %(key)s
  AND coalesce(busy_until, '-infinity') + make_interval(secs => %(step)s)
      <= statement_timestamp() + make_interval(secs => %(window)s)
"""
_WAIT = """
SELECT extract(epoch FROM busy_until + make_interval(secs => %(step)s) - make_interval(secs => %(window)s)
                          - statement_timestamp())::float8
FROM whatsapp_apikey WHERE id = %(key)s
"""


def take_turn(key: ApiKey) -> None:
    """Count a request of ``key``; refuse what is more than WHATSAPP_API_RATE.

    Requests may come all at once or evenly: what was not used is there again after a
    while. The count is in the key's row, so that a key has one pace however many
    processes answer it, before and after a restart.

    Raises:
        WhatsAppError: TOO_MANY_REQUESTS, with the seconds to wait.
    """
    count, window = settings.WHATSAPP_API_RATE
    pace: dict[str, float] = {
        "key": key.pk,
        "window": window,
        "step": window / count,
    }
    with connection.cursor() as cursor:
        cursor.execute(_TAKE_TURN, pace)
        if cursor.rowcount:
            return
        cursor.execute(_WAIT, pace)
        row = cursor.fetchone()
    wait = max(0, row[0] or 0) if row else 0
    raise WhatsAppError(ErrorCode.TOO_MANY_REQUESTS, retry_after=int(wait) + 1)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
