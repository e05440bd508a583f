"""Pieces of HTML that session-status.js keeps true while the page is open."""

from datetime import UTC, datetime

from django.utils import formats
from django.utils.html import format_html
from django.utils.safestring import SafeString

from whatsapp.models import Salon, WhatsAppSession
from whatsapp.phones import mask_phone
from whatsapp.services import words

NOTHING = "–"

SOCKET = "/ws/admin/status/"
"""Tells the changes of every salon that whoever asks may see."""


def session_of(salon: Salon) -> WhatsAppSession:
    """Return the session of a salon; of one that has none, as it would be."""
    session: WhatsAppSession | None = getattr(salon, "session", None)
    return session or WhatsAppSession(salon=salon, since=salon.created_at)


def status(salon: Salon) -> SafeString:
    """Return the status in words; the style sheet gives the colour."""
    session = session_of(salon)
    return format_html(
        '<span class="salon-status" data-salon="{}" data-live="status"'
        ' data-status="{}">{}</span>',
        salon.pk,
        session.status,
        words.status(session.status),
    )


def phone(salon: Salon) -> SafeString:
    """Return the linked phone, masked."""
    return format_html(
        '<span data-salon="{}" data-live="phone">{}</span>',
        salon.pk,
        mask_phone(session_of(salon).phone) or NOTHING,
    )


def since(salon: Salon) -> SafeString:
    """Return when the status last changed."""
    return _live_time(salon, "since", session_of(salon).since)


def alive(salon: Salon) -> SafeString:
    """Return the last proof of life."""
    return _live_time(salon, "alive", session_of(salon).last_alive_at)


def owner(salon: Salon) -> SafeString:
    """Return the gateway."""
    return format_html(
        '<span data-salon="{}" data-live="owner">{}</span>',
        salon.pk,
        session_of(salon).owner or NOTHING,
    )


def _live_time(salon: Salon, name: str, moment: datetime | None) -> SafeString:
    if moment is None:
        return format_html(
            '<time data-salon="{}" data-live="{}">{}</time>', salon.pk, name, NOTHING
        )
    return format_html(
        '<time data-salon="{}" data-live="{}" datetime="{}" title="{}">{}</time>',
        salon.pk,
        name,
        iso(moment),
        absolute(moment),
        absolute(moment),
    )


def time(moment: datetime | None) -> SafeString:
    """Return a moment that does not change; the script says how long ago it was."""
    if moment is None:
        return format_html("{}", NOTHING)
    return format_html(
        '<time datetime="{}" title="{}">{}</time>',
        iso(moment),
        absolute(moment),
        absolute(moment),
    )


def iso(moment: datetime) -> str:
    """Return a moment for programs."""
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def absolute(moment: datetime) -> str:
    """Return a moment for people, who see it where there is no script."""
    text = formats.date_format(moment.astimezone(UTC), "SHORT_DATETIME_FORMAT")
    return f"{text} UTC"


def of_salon(salon: Salon) -> dict[str, str]:
    """Return all live cells of a salon, by name."""
    return {
        "status": status(salon),
        "phone": phone(salon),
        "since": since(salon),
        "alive": alive(salon),
        "owner": owner(salon),
    }
