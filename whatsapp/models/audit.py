"""What people and the system did."""

from django.db import models
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from whatsapp.models.salons import OfSalonQuerySet, Salon


class AuditEvent(models.Model):
    """Something that a person or the system did. Append-only: the table says so too."""

    salon = models.ForeignKey(
        Salon,
        on_delete=models.SET_NULL,
        null=True,
        related_name="audit_events",
        verbose_name=_("salon"),
    )
    at = models.DateTimeField(_("when"), db_default=Now())
    actor = models.CharField(
        _("who"),
        max_length=200,
        help_text="page, command, system, or user: and a user name, "
        "key: and the name of an API key.",
    )
    action = models.CharField(_("what"), max_length=64)
    detail = models.JSONField(_("details"), default=dict)

    objects = OfSalonQuerySet["AuditEvent"].as_manager()

    class Meta:
        verbose_name = _("audit event")
        verbose_name_plural = _("audit")
        indexes = [models.Index(fields=["salon", "-id"], name="audit_of_salon")]

    def __str__(self) -> str:
        return f"{self.at:%Y-%m-%d %H:%M} {self.actor} {self.action}"
