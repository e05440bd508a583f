"""Tries to link a phone, and how many ended in which way."""

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from whatsapp.models.salons import DIGITS, OfSalonQuerySet, Salon


class PairingAttempt(models.Model):
    """One try to link a phone, with its deadline."""

    class Kind(models.TextChoices):
        CODE = "code", _("Pairing code")
        QR = "qr", _("QR")

    class Stage(models.TextChoices):
        REQUESTED = "requested", _("Requested")
        SHOWN = "shown", _("Shown")
        ENTERED = "entered", _("Entered")
        FINISHING = "finishing", _("Finishing")
        LINKED = "linked", _("Linked")
        FAILED = "failed", _("Failed")
        EXPIRED = "expired", _("Expired")
        SUPERSEDED = "superseded", _("Superseded")
        CANCELLED = "cancelled", _("Cancelled")

    OPEN_STAGES = (Stage.REQUESTED, Stage.SHOWN, Stage.ENTERED, Stage.FINISHING)

    salon = models.ForeignKey(
        Salon,
        on_delete=models.CASCADE,
        related_name="attempts",
        verbose_name=_("salon"),
    )
    kind = models.CharField(_("kind"), max_length=4, choices=Kind.choices)
    phone = models.CharField(
        max_length=15, blank=True, help_text="Digits; the phone that a code is for."
    )
    stage = models.CharField(
        _("stage"), max_length=10, choices=Stage.choices, default=Stage.REQUESTED
    )
    fresh = models.BooleanField(
        _("new link"),
        default=False,
        help_text="A QR for a new link although one is stored: asked for in place of a "
        "code, by somebody who is just linking.",
    )
    requested_by = models.CharField(_("requested by"), max_length=200, blank=True)
    requested_at = models.DateTimeField(_("requested"), db_default=Now())
    deadline = models.DateTimeField(help_text="When the present stage is over.")
    epoch = models.BigIntegerField(
        null=True, help_text="The socket that it runs on; None: not taken up yet."
    )
    code = models.CharField(max_length=9, blank=True)
    qr = models.TextField(blank=True)
    qr_until = models.DateTimeField(null=True, blank=True)
    linked_phone = models.CharField(max_length=15, blank=True)
    error = models.CharField(_("error"), max_length=32, blank=True)
    retry_after = models.IntegerField(null=True, blank=True, help_text="Seconds.")
    finished_at = models.DateTimeField(_("finished"), null=True, blank=True)

    objects = OfSalonQuerySet["PairingAttempt"].as_manager()

    class Meta:
        verbose_name = _("link attempt")
        verbose_name_plural = _("link attempts")
        constraints = [
            models.UniqueConstraint(
                fields=["salon"],
                condition=Q(finished_at=None),
                name="one_unfinished_attempt_per_salon",
            ),
            models.UniqueConstraint(
                fields=["phone"],
                condition=Q(finished_at=None, kind="code"),
                name="one_unfinished_code_per_phone",
            ),
            models.CheckConstraint(
                condition=Q(
                    finished_at=None,
                    stage__in=["requested", "shown", "entered", "finishing"],
                )
                | Q(
                    finished_at__isnull=False,
                    stage__in=[
                        "linked",
                        "failed",
                        "expired",
                        "superseded",
                        "cancelled",
                    ],
                ),
                name="attempt_is_finished_when_its_stage_is",
            ),
            models.CheckConstraint(
                condition=Q(finished_at=None) | Q(code="", qr=""),
                name="finished_attempt_keeps_no_secret",
            ),
            models.CheckConstraint(
                condition=Q(kind="qr", phone="") | Q(kind="code", phone__regex=DIGITS),
                name="code_attempt_has_a_phone",
            ),
        ]
        indexes = [
            models.Index(fields=["salon", "-id"], name="attempt_of_salon"),
            models.Index(fields=["phone", "requested_at"], name="attempt_of_phone"),
            models.Index(fields=["requested_at"], name="attempt_requested"),
            models.Index(
                fields=["deadline"],
                condition=Q(finished_at=None),
                name="attempt_overdue",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.salon_id}: {self.kind} {self.stage}"


class AttemptEnd(models.Model):
    """How many link attempts ended so. Written by a trigger, so none is missed.

    Several rows say the same, and their sum counts: nobody waits for anybody else's row.
    """

    id = models.BigAutoField(primary_key=True)
    kind = models.CharField(max_length=4, choices=PairingAttempt.Kind)
    outcome = models.CharField(max_length=10, help_text="Its last stage.")
    error = models.CharField(max_length=32, blank=True)
    attempts = models.BigIntegerField(default=1, db_default=1)

    def __str__(self) -> str:
        return f"{self.kind} {self.outcome}: {self.attempts}"
