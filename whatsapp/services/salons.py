"""Salons: made, and found by the names that people use for them."""

import re

from django.db import transaction

from whatsapp.models import Salon, WhatsAppSession


def create(salon_id: int, title: str) -> Salon:
    """Return the salon with the marketplace's number ``salon_id``; made if missing.

    Args:
        salon_id: positive integer.
        title: its name; an existing salon gets the new one.

    Raises:
        ValueError: ``salon_id`` is not positive.
    """
    if salon_id <= 0:
        raise ValueError("The salon id must be a positive number.")
    with transaction.atomic():
        salon, _ = Salon.objects.update_or_create(
            salon_id=salon_id, defaults={"title": title}
        )
        WhatsAppSession.objects.get_or_create(salon=salon)
    return salon


def find(name: str) -> Salon:
    """Return the salon called ``name``: its salon id, or ``company_<salon id>``.

    Raises:
        Salon.DoesNotExist: there is none.
    """
    match = re.fullmatch(r"(?:company_)?([0-9]{1,18})", name.strip())
    if not match:
        raise Salon.DoesNotExist(f"{name!r} is not a salon id.")
    try:
        return Salon.objects.get(salon_id=int(match.group(1)))
    except Salon.DoesNotExist:
        raise Salon.DoesNotExist(f"There is no salon {name}.") from None
