"""People, salons and requests for the tests of the staff's admin."""

import re
from collections.abc import Sequence
from itertools import count
from typing import Any

from django.contrib import admin
from django.contrib.auth.models import User
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from tests.factories import make_salon, store_creds
from whatsapp.models import ArchivedCredentials, Membership, Salon, WhatsAppSession
from whatsapp.roles import Role
from whatsapp.services import credentials, sessions

_numbers = count(1)

SUPERUSER = "superuser"
"""Not a role of a salon, and may what support may."""

WHO = (*(role.value for role in Role), SUPERUSER)


PASSWORD = "a long enough password"


def make_user(
    who: str = "", salon: Salon | None = None, password: str | None = None
) -> User:
    """Return a user with a role at ``salon``; "": with none."""
    name = f"{who or 'nobody'}-{next(_numbers)}"
    user = User.objects.create_user(name, password=password)
    if who == SUPERUSER:
        user.is_superuser = True
        user.save()
    elif who:
        place = None if who == Role.SUPPORT else salon
        Membership.objects.create(user=user, salon=place, role=who)
    return user


def client_of(user: User) -> Any:
    """Return a browser in which ``user`` has logged in."""
    client = Client()
    client.force_login(user)
    return client


def client_as(who: str, salon: Salon | None = None) -> Any:
    """Return a browser of a new user with a role at ``salon``."""
    return client_of(make_user(who, salon))


def linked(status: str = "open", phone: str = "79001234567", **fields: Any) -> Salon:
    """Return a salon whose link is stored, with a session row made to order."""
    salon = make_salon(title=fields.pop("title", "Ромашка"))
    store_creds(salon)
    WhatsAppSession.objects.filter(salon=salon).update(
        status=status, phone=phone, **fields
    )
    return Salon.objects.get(pk=salon.pk)


def texts(html: str) -> str:
    """Return what a page shows, without its tags."""
    body = re.sub(r"(?s)<(script|style)\b.*?</\1>", " ", html)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


def message_of(response: Any) -> str:
    """Return the last of what the next page will say on top; "" if it is nothing."""
    told = [str(message) for message in response.wsgi_request._messages]
    return told[-1] if told else ""


def admin_routes() -> list[tuple[str, str]]:
    """Return (name, route) of every page of the admin, as the resolver has them."""

    def walk(
        patterns: Sequence[URLPattern | URLResolver], before: str
    ) -> list[tuple[str, str]]:
        found = []
        for entry in patterns:
            route = before + str(entry.pattern)
            if isinstance(entry, URLResolver):
                found += walk(entry.url_patterns, route)
            else:
                found.append((entry.name or "", route))
        return found

    whole = [
        entry
        for entry in get_resolver().url_patterns
        if isinstance(entry, URLResolver) and entry.namespace == admin.site.name
    ]
    return walk(whole, "/")


LIST = "/admin/whatsapp/salon/"
MISSING = 987_654_321


def page_of(salon: Salon, rest: str = "change/") -> str:
    return f"{LIST}{salon.pk}/{rest}"


def archived(salon: Salon) -> ArchivedCredentials:
    """Archive what is stored for the salon; return the entry."""
    with sessions.locked(salon):
        assert credentials.archive(salon, "replaced")
    return salon.archive.latest("id")


def filled(route: str, pk: str) -> str:
    """Return an address for a route of the admin, its places filled with ``pk``."""
    address = re.sub(r"<(?:\w+:)?\w+>", pk, route)
    address = address.replace("^(?P<app_label>auth|whatsapp)/$", "whatsapp/")
    address = address.replace("^(?P<app_label>whatsapp|auth)/$", "whatsapp/")
    return address.replace("^", "").replace("$", "")
