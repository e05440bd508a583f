"""Creds and Signal keys as they lie, sealed or not, and those in the archive."""

from django.db import models
from django.db.models import F, Q
from django.db.models.functions import Now

from whatsapp.models.salons import OfSalonQuerySet, Salon


class WhatsAppAuth(models.Model):
    """Baileys' creds of one salon. A legacy table: columns are not ours to change."""

    company_id = models.TextField(primary_key=True)
    creds = models.JSONField()
    created_at = models.DateTimeField(db_default=Now(), null=True)
    updated_at = models.DateTimeField(db_default=Now(), null=True)

    class Meta:
        db_table = "whatsapp_auth"

    def __str__(self) -> str:
        return self.company_id


class WhatsAppKey(models.Model):
    """One entry of Baileys' SignalKeyStore. A legacy table, like WhatsAppAuth."""

    pk = models.CompositePrimaryKey("company_id", "key_type", "key_id")
    company_id = models.TextField()
    key_type = models.TextField()
    key_id = models.TextField()
    value = models.JSONField()
    created_at = models.DateTimeField(db_default=Now(), null=True)
    updated_at = models.DateTimeField(db_default=Now(), null=True)
    expires_at = models.DateTimeField(null=True)

    class Meta:
        db_table = "whatsapp_keys"

    def __str__(self) -> str:
        return f"{self.company_id} {self.key_type}"


class CredsIndex(models.Model):
    """What lies in ``whatsapp_auth``, to be read without opening it.

    Kept by a trigger; of sealed creds, which it cannot read, whoever seals them says it.
    """

    company_id = models.TextField(primary_key=True)
    state = models.CharField(
        max_length=11,
        help_text="half-paired, or linked: account and a me.id with a device.",
    )
    jid = models.TextField(blank=True, help_text="me.id: phone and device.")
    device = models.CharField(
        max_length=32,
        help_text="The same for two copies of one link, whatever form they have.",
    )
    kid = models.CharField(
        max_length=8, blank=True, help_text="The key that seals it; empty: plain."
    )

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(state__in=["half-paired", "linked"]),
                name="state_of_creds_is_known",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.company_id}: {self.state}"


class SealingKey(models.Model):
    """A key of ``CREDENTIAL_ENCRYPTION_KEYS`` that something may be sealed with."""

    kid = models.CharField(primary_key=True, max_length=8)
    first_used_at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return self.kid

    @staticmethod
    def note(kid: str) -> None:
        """Remember that something is sealed with a key, for when somebody drops it."""
        SealingKey.objects.bulk_create([SealingKey(kid=kid)], ignore_conflicts=True)


class ArchivedCredentials(models.Model):
    """Creds and keys that were replaced, kept for a while so they can be restored."""

    salon = models.ForeignKey(Salon, on_delete=models.CASCADE, related_name="archive")
    phone = models.CharField(max_length=15, blank=True)
    reason = models.CharField(max_length=32)
    archived_at = models.DateTimeField(db_default=Now())
    purge_at = models.DateTimeField(db_index=True)
    encrypted = models.BooleanField()
    kid = models.CharField(
        max_length=8,
        blank=True,
        db_default="",
        help_text="The key that seals it; empty: plain, or Fernet as before.",
    )
    payload = models.BinaryField(
        help_text="Compressed JSON of creds and keys; encrypted if a key is set."
    )

    objects = OfSalonQuerySet["ArchivedCredentials"].as_manager()

    class Meta:
        verbose_name_plural = "archived credentials"
        constraints = [
            models.CheckConstraint(
                condition=Q(purge_at__gt=F("archived_at")),
                name="archive_is_kept_for_a_while",
            )
        ]

    def __str__(self) -> str:
        return f"{self.salon_id}: {self.reason} {self.archived_at:%Y-%m-%d}"


class KeyCount(models.Model):
    """How many Signal keys a salon had on a day, at the day's first count."""

    pk = models.CompositePrimaryKey("salon_id", "day")
    salon = models.ForeignKey(
        Salon, on_delete=models.CASCADE, related_name="key_counts", db_index=False
    )
    day = models.DateField(db_index=True, help_text="UTC.")
    total = models.IntegerField()
    by_type = models.JSONField()

    def __str__(self) -> str:
        return f"{self.salon_id}: {self.total} on {self.day}"
