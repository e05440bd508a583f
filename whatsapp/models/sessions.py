"""A salon's connection to WhatsApp, and how its status has changed."""

from django.db import models
from django.db.models import Q, Value
from django.db.models.functions import Now, Right
from django.utils.translation import gettext_lazy as _

from whatsapp.models.salons import DIGITS, OfSalonQuerySet, Salon


class WhatsAppSession(models.Model):
    """One salon's connection to WhatsApp: what is wanted, and what is true."""

    class Status(models.TextChoices):
        UNLINKED = "unlinked", _("Not linked")
        PAIRING = "pairing", _("Linking")
        CONNECTING = "connecting", _("Connecting")
        OPEN = "open", _("Connected")
        DEGRADED = "degraded", _("Connected, but silent")
        RECONNECTING = "reconnecting", _("Reconnecting")
        STOPPED = "stopped", _("Stopped")
        LOGGED_OUT = "logged_out", _("Logged out")
        REPLACED = "replaced", _("Used elsewhere")
        BANNED = "banned", _("Banned by WhatsApp")
        OUTDATED = "outdated", _("Our WhatsApp version is too old")
        NEEDS_ATTENTION = "needs_attention", _("Needs attention")

    RUNNING = (
        Status.PAIRING,
        Status.CONNECTING,
        Status.OPEN,
        Status.DEGRADED,
        Status.RECONNECTING,
    )
    """Statuses that promise a gateway at work; without one they must be settled."""

    salon = models.OneToOneField(
        Salon, on_delete=models.CASCADE, primary_key=True, related_name="session"
    )
    status = models.CharField(
        max_length=20, choices=Status.choices, default=Status.UNLINKED
    )
    reason = models.CharField(
        max_length=64, blank=True, help_text="Why: an error code, or a disconnect code."
    )
    phone = models.CharField(max_length=15, blank=True, help_text="Digits.")
    since = models.DateTimeField(
        db_default=Now(), help_text="When the status last changed."
    )
    wanted = models.BooleanField(
        default=True, help_text="Off: staff stopped it; the link is kept."
    )
    retry_at = models.DateTimeField(
        null=True, blank=True, help_text="No gateway starts it before."
    )
    owner = models.CharField(max_length=64, blank=True, help_text="The gateway.")
    epoch = models.BigIntegerField(
        default=0,
        help_text="The fence: raised at every start of a socket and every reset. "
        "Creds and keys are written only under the current one.",
    )
    unlink_epoch = models.BigIntegerField(
        null=True,
        blank=True,
        help_text="The socket of this epoch says goodbye to WhatsApp as it closes.",
    )
    written = models.BigIntegerField(
        default=0,
        db_default=0,
        help_text="Number of the last batch of creds and keys written under this "
        "epoch: a late statement never overwrites what came after it.",
    )
    resets = models.IntegerField(default=0)
    revision = models.BigIntegerField(
        default=0, help_text="Raised with everything that a page can see."
    )
    last_alive_at = models.DateTimeField(null=True, blank=True)
    watched_at = models.DateTimeField(
        null=True, blank=True, help_text="When a page last looked."
    )

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(
                    status__in=[
                        "unlinked",
                        "pairing",
                        "connecting",
                        "open",
                        "degraded",
                        "reconnecting",
                        "stopped",
                        "logged_out",
                        "replaced",
                        "banned",
                        "outdated",
                        "needs_attention",
                    ]
                ),
                name="session_status_is_known",
            ),
            models.CheckConstraint(
                condition=Q(phone="") | Q(phone__regex=DIGITS),
                name="session_phone_is_digits",
            ),
            models.CheckConstraint(
                condition=Q(epoch__gte=0) & Q(revision__gte=0),
                name="session_counters_are_not_negative",
            ),
        ]
        indexes = [
            # Whose phone it is already: asked for every code.
            models.Index(Right("phone", Value(8)), name="session_by_end_of_phone"),
        ]

    def __str__(self) -> str:
        return f"{self.salon_id}: {self.status}"


class StatusChange(models.Model):
    """A salon's session got another status. Written by a trigger, so none is missed."""

    id = models.BigAutoField(primary_key=True)
    salon = models.ForeignKey(
        Salon,
        on_delete=models.CASCADE,
        related_name="status_changes",
        verbose_name=_("salon"),
    )
    at = models.DateTimeField(_("when"), db_default=Now())
    before = models.CharField(
        max_length=20, choices=WhatsAppSession.Status, db_default=""
    )
    status = models.CharField(
        _("status"), max_length=20, choices=WhatsAppSession.Status
    )
    reason = models.CharField(_("reason"), max_length=64, blank=True)
    owner = models.CharField(_("gateway"), max_length=64, blank=True)
    told = models.BooleanField(
        default=False,
        db_default=False,
        help_text="Logged and sent as a signal (services/outbox.py).",
    )

    objects = OfSalonQuerySet["StatusChange"].as_manager()

    class Meta:
        verbose_name = _("change of status")
        verbose_name_plural = _("changes of status")
        indexes = [
            models.Index(fields=["salon", "-id"], name="status_change_of_salon"),
            models.Index(fields=["at"], name="status_change_at"),
            models.Index(
                fields=["salon", "id"],
                condition=Q(told=False),
                name="status_change_untold",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.salon_id}: {self.before} → {self.status}"


class Flapping(models.Model):
    """A salon whose status changes so often that it is not told of for the moment."""

    salon = models.OneToOneField(
        Salon, on_delete=models.CASCADE, primary_key=True, related_name="flapping"
    )
    since = models.DateTimeField()
    changes = models.IntegerField(
        default=0, help_text="So many were not told since then."
    )
    changed_at = models.DateTimeField(db_index=True, help_text="The last one.")

    def __str__(self) -> str:
        return f"{self.salon_id}: since {self.since:%Y-%m-%d %H:%M}"
