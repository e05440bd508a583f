"""Who is logged in at the staff's WebSockets, and what each of them may do now.

A WebSocket outlives the request that opened it: a logout, another password or role must
reach it. One statement judges all sockets of a process, so it is asked every few seconds.
"""

from collections.abc import Collection
from dataclasses import dataclass, field

from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.db import connection
from django.utils.crypto import constant_time_compare

from whatsapp.errors import ErrorCode, WhatsAppError
from whatsapp.models import Salon
from whatsapp.roles import MAY, Action, Role
from whatsapp.services import staff


@dataclass(frozen=True, slots=True)
class Login:
    """One login session of one person, as it was when the socket was opened."""

    session_key: str
    user_pk: int
    auth_hash: str = field(repr=False)
    """Changes with the password."""


@dataclass(frozen=True, slots=True)
class Rights:
    """What a person may do, to which salon."""

    everywhere: frozenset[Action] = frozenset()
    by_salon: dict[int, frozenset[Action]] = field(default_factory=dict)

    def on(self, salon_pk: int) -> frozenset[Action]:
        """Return what may be done to this salon; nothing: it does not exist for him."""
        return self.everywhere | self.by_salon.get(salon_pk, frozenset())

    @property
    def any(self) -> bool:
        """Whether there is any salon at all that may be seen."""
        return bool(self.everywhere or self.by_salon)


def of(user: User, session_key: str) -> Login:
    """Return the login of ``user``, whom Django has found by his session."""
    return Login(session_key, user.pk, user.get_session_auth_hash())


_RIGHTS_SQL = """
SELECT asked.session_key, asked.user_id, u.password, u.is_superuser,
       array_agg(m.salon_id), array_agg(m.role)
FROM unnest(%s::text[], %s::bigint[]) AS asked(session_key, user_id)
JOIN django_session s
    ON s.session_key = asked.session_key AND s.expire_date > now()
JOIN auth_user u ON u.id = asked.user_id AND u.is_active
LEFT JOIN whatsapp_membership m ON m.user_id = u.id
GROUP BY 1, 2, 3, 4
"""


def rights(logins: Collection[Login]) -> dict[Login, Rights]:
    """Return what each login allows now, in one query; those that are over are missing.

    A login is over when its session was logged out or has expired, the password has
    changed, or the user was deactivated.
    """
    if not logins:
        return {}
    by_key = {(login.session_key, login.user_pk): login for login in logins}
    keys, users = zip(*by_key, strict=True)
    with connection.cursor() as cursor:
        cursor.execute(_RIGHTS_SQL, [list(keys), list(users)])
        rows = cursor.fetchall()
    valid = {}
    for session_key, user_pk, password, is_superuser, salons, roles in rows:
        login = by_key[session_key, user_pk]
        if constant_time_compare(login.auth_hash, _auth_hash(password)):
            valid[login] = _rights(zip(salons, roles, strict=True), is_superuser)
    return valid


def _auth_hash(password: str) -> str:
    return User(password=password).get_session_auth_hash()


def _rights(
    memberships: "zip[tuple[int | None, str | None]]", is_superuser: bool
) -> Rights:
    everywhere = MAY[Role.SUPPORT] if is_superuser else frozenset()
    by_salon: dict[int, frozenset[Action]] = {}
    for salon_pk, role in memberships:
        if role is None:
            continue
        if salon_pk is None:
            everywhere |= MAY[Role(role)]
        else:
            by_salon[salon_pk] = MAY[Role(role)]
    return Rights(everywhere, by_salon)


def salon(login: Login, salon_pk: int, action: Action) -> tuple[Salon, str]:
    """Return a salon on which this person may do ``action``, and his name in the audit.

    Raises:
        WhatsAppError: UNAUTHORIZED, the user is no longer active; FORBIDDEN, he may
            not, or there is no such salon.
    """
    user = _user(login)
    found = Salon.objects.for_user(user, action).filter(pk=salon_pk).first()
    if found is None:
        raise WhatsAppError(ErrorCode.FORBIDDEN)
    return found, staff.actor(user)


def visible(login: Login, salon_pks: Collection[int]) -> list[int]:
    """Return those of the salons that this person may see.

    Raises:
        WhatsAppError: UNAUTHORIZED, the user is no longer active.
    """
    salons = Salon.objects.for_user(_user(login), Action.VIEW)
    return list(salons.filter(pk__in=salon_pks).values_list("pk", flat=True))


def _user(login: Login) -> User:
    # Afresh: the one that the socket was opened with knows no later change.
    user = get_user_model().objects.filter(pk=login.user_pk, is_active=True).first()
    if user is None:
        raise WhatsAppError(ErrorCode.UNAUTHORIZED)
    return user
