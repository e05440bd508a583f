"""The record of who did what to a salon's link."""

from typing import Any

from whatsapp.models import AuditEvent

SYSTEM = "system"


def record(salon_pk: int | None, actor: str, action: str, **detail: Any) -> None:
    """Write one audit event in the running transaction; phones in it are masked.

    Args:
        salon_pk: the salon that it is about; None: about none, or about many.
        actor: who did it.
        action: what he did, as a word for programs; timeline.py has those for people.
        detail: what else is to be known of it, without secrets.
    """
    AuditEvent.objects.create(
        salon_id=salon_pk, actor=actor, action=action, detail=detail
    )
