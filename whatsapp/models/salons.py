"""Salons, the people who work for them, and who may see what belongs to a salon."""

from typing import TYPE_CHECKING, Self, TypeAlias, TypeVar

from django.conf import settings
from django.db import models
from django.db.models import Exists, OuterRef, Q
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from whatsapp.roles import Action, Role, roles_that_may

if TYPE_CHECKING:
    from django.contrib.auth.base_user import AbstractBaseUser
    from django.contrib.auth.models import AnonymousUser

    from whatsapp.models.api_keys import ApiKey

DIGITS = r"^[0-9]{7,15}$"
"""What a stored phone looks like, for constraints."""

Row = TypeVar("Row", bound=models.Model)

User: TypeAlias = "AbstractBaseUser | AnonymousUser"


def _memberships(user: User, action: Action) -> "models.QuerySet[Membership]":
    """The memberships by which ``user`` may do ``action``."""
    return Membership.objects.filter(
        user_id=user.pk or 0, user__is_active=True, role__in=roles_that_may(action)
    )


class SalonQuerySet(models.QuerySet["Salon"]):
    """Salons, fetched through whoever asks."""

    def for_user(self, user: User, action: Action = Action.VIEW) -> "SalonQuerySet":
        """Return the salons on which ``user`` may do ``action``.

        The one way to a salon for everything that a person of the staff uses: a salon
        that is not among them looks like one that does not exist.
        """
        if not user.is_authenticated or not user.is_active:
            return self.none()
        if getattr(user, "is_superuser", False):
            return self.all()
        mine = _memberships(user, action)
        return self.filter(
            Exists(mine.filter(salon=OuterRef("pk")))
            | Exists(mine.filter(role=Role.SUPPORT))
        )

    def for_key(self, key: "ApiKey", action: Action = Action.VIEW) -> "SalonQuerySet":
        """Return the salons on which a program with ``key`` may do ``action``.

        Whether the key is still good has been judged by ``api_keys.authenticate``.
        """
        if action not in key.actions:
            return self.none()
        return self.all() if key.salon_id is None else self.filter(pk=key.salon_id)


class OfSalonQuerySet(models.QuerySet[Row]):
    """Rows that belong to a salon, fetched through whoever asks."""

    def for_user(self, user: User, action: Action = Action.VIEW) -> Self:
        """Return the rows of the salons on which ``user`` may do ``action``.

        Rows that belong to no salon are support's.
        """
        if not user.is_authenticated or not user.is_active:
            return self.none()
        if getattr(user, "is_superuser", False):
            return self.all()
        support = _memberships(user, action).filter(role=Role.SUPPORT)
        return self.filter(
            Q(salon__in=Salon.objects.for_user(user, action)) | Exists(support)
        )

    def for_key(self, key: "ApiKey", action: Action = Action.VIEW) -> Self:
        """Return the rows of the salons on which ``key`` may do ``action``."""
        if action not in key.actions:
            return self.none()
        if key.salon_id is None:
            return self.filter(salon__isnull=False)
        return self.filter(salon_id=key.salon_id)


class Salon(models.Model):
    """A tenant: one beauty salon of the marketplace, with one WhatsApp link."""

    salon_id = models.BigIntegerField(
        _("salon id"),
        unique=True,
        help_text=_("The marketplace's number of the salon."),
    )
    title = models.CharField(_("title"), max_length=255)
    expected_phone = models.CharField(
        _("expected phone"),
        max_length=15,
        blank=True,
        help_text=_("If set, the salon is told when another phone is linked."),
    )
    shared_phone_allowed = models.BooleanField(
        _("shared phone allowed"),
        default=False,
        help_text=_("The salon may link a phone that another salon uses."),
    )
    created_at = models.DateTimeField(_("created"), db_default=Now())

    objects = SalonQuerySet.as_manager()

    class Meta:
        verbose_name = _("salon")
        verbose_name_plural = _("salons")
        constraints = [
            models.CheckConstraint(
                condition=Q(salon_id__gt=0), name="salon_id_is_positive"
            ),
            models.CheckConstraint(
                condition=Q(expected_phone="") | Q(expected_phone__regex=DIGITS),
                name="salon_expected_phone_is_digits",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.title} ({self.salon_id})"

    @property
    def session_id(self) -> str:
        """The key of this salon in the legacy tables."""
        return f"company_{self.salon_id}"


class Membership(models.Model):
    """What a person is to a salon; support has one without a salon, for all of them."""

    ROLES = (
        (Role.VIEWER.value, _("Viewer")),
        (Role.STAFF.value, _("Staff")),
        (Role.OWNER.value, _("Owner")),
        (Role.SUPPORT.value, _("Support")),
    )

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        on_delete=models.CASCADE,
        related_name="salon_memberships",
        verbose_name=_("user"),
    )
    salon = models.ForeignKey(
        Salon,
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="memberships",
        verbose_name=_("salon"),
        help_text=_("Empty for support, which serves all salons."),
    )
    role = models.CharField(
        _("role"), max_length=10, choices=ROLES, default=Role.STAFF.value
    )

    objects = OfSalonQuerySet["Membership"].as_manager()

    class Meta:
        verbose_name = _("staff member")
        verbose_name_plural = _("staff")
        constraints = [
            models.UniqueConstraint(
                fields=["user", "salon"], name="one_membership_per_user_and_salon"
            ),
            models.UniqueConstraint(
                fields=["user"],
                condition=Q(salon=None),
                name="one_support_membership_per_user",
            ),
            models.CheckConstraint(
                condition=Q(salon=None, role="support")
                | Q(salon__isnull=False, role__in=["viewer", "staff", "owner"]),
                name="support_serves_all_salons",
                violation_error_message=_(
                    "Support has no salon of its own; every other role has one."
                ),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.user_id} in {self.salon_id}: {self.role}"
