"""The gateways, and what they share about WhatsApp."""

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now


class Gateway(models.Model):
    """A gateway that runs, or ran. Whether it lives, its advisory lock says."""

    # Half of an advisory lock: 32 bits.
    id = models.AutoField(primary_key=True)
    name = models.CharField(max_length=64, unique=True)
    started_at = models.DateTimeField(db_default=Now())
    seen_at = models.DateTimeField(
        db_default=Now(), help_text="When it last looked, by the database's clock."
    )
    engines = models.JSONField(
        default=list, help_text="What its Node.js processes were doing then."
    )
    metrics = models.JSONField(
        default=dict,
        db_default=models.Value({}, models.JSONField()),
        help_text="What it had counted by then (whatsapp/metrics.py).",
    )

    def __str__(self) -> str:
        return self.name


class WebVersion(models.Model):
    """The WhatsApp web version that was fetched after a refusal: one row for all."""

    ONLY = 1

    id = models.SmallIntegerField(primary_key=True, default=ONLY)
    version = models.CharField(
        max_length=32, blank=True, help_text="Empty: none was ever needed."
    )
    fetched_at = models.DateTimeField(null=True)
    asked_at = models.DateTimeField(
        null=True, help_text="When somebody last set out to fetch one."
    )
    probed_at = models.DateTimeField(
        db_default=Now(), help_text="When a salon last tried for all."
    )
    error = models.CharField(
        max_length=200, blank=True, help_text="Why that brought nothing newer."
    )

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(id=1), name="there_is_one_web_version"),
            models.CheckConstraint(
                condition=Q(version="") | Q(version__regex=r"^[0-9]+(\.[0-9]+){2}$"),
                name="web_version_is_three_numbers",
            ),
        ]

    def __str__(self) -> str:
        return self.version
