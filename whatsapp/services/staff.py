"""The people behind the admin: what each may do, and the name that the audit gives him."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from django.core.exceptions import PermissionDenied
from django.db import transaction

from whatsapp.models import Membership, Salon, User
from whatsapp.roles import MAY, Action, Role
from whatsapp.services import audit

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractUser


def may_enter(user: User) -> bool:
    """Say whether the admin is open to ``user``: he serves a salon, or all of them."""
    if not user.is_authenticated or not user.is_active:
        return False
    if getattr(user, "is_superuser", False):
        return True
    return Membership.objects.filter(user_id=user.pk).exists()


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


def may_somewhere(user: User) -> frozenset[Action]:
    """Return what ``user`` may do to any salon at all, in one query."""
    if not user.is_authenticated or not user.is_active:
        return frozenset()
    if getattr(user, "is_superuser", False):
        return MAY[Role.SUPPORT]
    roles = Membership.objects.filter(user_id=user.pk).values_list("role", flat=True)
    return frozenset[Action]().union(*(MAY[Role(role)] for role in roles.distinct()))


def actor(user: "AbstractUser") -> str:
    """Return the name of a person in the audit."""
    return f"user:{user.get_username()}"


# --- who works where ------------------------------------------------------------------


def grantable(by: "AbstractUser", salon: Salon | None) -> list[Role]:
    """Return the roles that ``by`` may give, change and take at ``salon``.

    Nobody gives more than he has; support is given by superusers only.
    """
    if salon is None:
        return [Role.SUPPORT] if by.is_active and by.is_superuser else []
    mine = may(by, salon)
    if Action.MANAGE_STAFF not in mine:
        return []
    return [role for role in Role if role != Role.SUPPORT and MAY[role] <= mine]


def _check(by: "AbstractUser", salon: Salon | None, *roles: str) -> None:
    if not set(roles) <= set(grantable(by, salon)):
        raise PermissionDenied


def grant(
    by: "AbstractUser", user: "AbstractUser", salon: Salon | None, role: str
) -> Membership:
    """Give ``user`` a role at ``salon`` (None: support, at all of them).

    Raises:
        PermissionDenied: ``by`` may not give it.
        IntegrityError: he has one there already, or the role does not fit.
    """
    _check(by, salon, role)
    with transaction.atomic():
        membership = Membership.objects.create(user_id=user.pk, salon=salon, role=role)
        _record(by, membership, "staff_granted", role=role)
    return membership


def change(by: "AbstractUser", membership: Membership, role: str) -> None:
    """Give somebody another role at the same salon.

    Raises:
        PermissionDenied: ``by`` may not give it, or not take the present one.
    """
    with transaction.atomic():
        stored = Membership.objects.select_for_update().get(pk=membership.pk)
        _check(by, stored.salon, role, stored.role)
        if stored.role == role:
            return
        before, stored.role = stored.role, role
        stored.save(update_fields=["role"])
        _record(by, stored, "staff_changed", before=before, role=role)


def revoke(by: "AbstractUser", membership: Membership) -> None:
    """Take a role away; it counts from the next request on.

    Raises:
        PermissionDenied: ``by`` may not take it.
    """
    with transaction.atomic():
        stored = Membership.objects.select_for_update().get(pk=membership.pk)
        _check(by, stored.salon, stored.role)
        _record(by, stored, "staff_revoked", role=stored.role)
        stored.delete()


def _record(
    by: "AbstractUser", membership: Membership, action: str, **detail: str
) -> None:
    name = membership.user.get_username()
    audit.record(membership.salon_id, actor(by), action, user=name, **detail)


def record_user(
    by: "AbstractUser", user: "AbstractUser", action: str, fields: Iterable[str] = ()
) -> None:
    """Record what was done to a user: ``user_created``, ``user_edited``, ``user_password``.

    Args:
        by: who did it.
        user: to whom.
        action: what.
        fields: the names of what has changed, never the values.
    """
    audit.record(
        None, actor(by), action, user=user.get_username(), fields=sorted(fields)
    )
