"""The record of who did what to a salon's link."""

from typing import Any

from whatsapp.models import AuditEvent

SYSTEM = "system"


def record(salon_pk: int, actor: str, action: str, **detail: Any) -> None:
    """Write one audit event in the running transaction; phones in it are masked."""
    AuditEvent.objects.create(
        salon_id=salon_pk, actor=actor, action=action, detail=detail
    )
