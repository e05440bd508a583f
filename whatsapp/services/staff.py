"""The people behind the admin: what each may do, and the name that the audit gives him."""

from typing import TYPE_CHECKING

from whatsapp.models import Membership, Salon, User
from whatsapp.roles import MAY, Action, Role

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractUser


def is_support(user: User) -> bool:
    """Say whether ``user`` serves all salons; superusers do."""
    if not user.is_authenticated or not user.is_active:
        return False
    if getattr(user, "is_superuser", False):
        return True
    return Membership.objects.filter(user_id=user.pk, role=Role.SUPPORT).exists()


def may(user: User, salon: Salon) -> frozenset[Action]:
    """Return what ``user`` may do to ``salon``; nothing: for him it does not exist."""
    if not user.is_authenticated or not user.is_active:
        return frozenset()
    if getattr(user, "is_superuser", False):
        return MAY[Role.SUPPORT]
    roles = Membership.objects.filter(user_id=user.pk).filter(salon=salon)
    roles |= Membership.objects.filter(user_id=user.pk, role=Role.SUPPORT)
    return frozenset[Action]().union(
        *(MAY[Role(role)] for role in roles.values_list("role", flat=True))
    )


def actor(user: "AbstractUser") -> str:
    """Return the name of a person in the audit."""
    return f"user:{user.get_username()}"
