"""Keys of the API, and what their changes were answered."""

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Q
from django.db.models.functions import Now
from django.utils.translation import gettext_lazy as _

from whatsapp.models.salons import OfSalonQuerySet, Salon
from whatsapp.roles import Action, Scope, scopes_may


class ApiKey(models.Model):
    """What opens the API to a program: for one salon, or for all of them.

    Of the secret only a digest is stored: it has 256 random bits, so that nobody
    guesses it, and a slow hash would only make every request slow.
    """

    SCOPES = (
        (Scope.READ.value, _("Read: states, attempts, what happened")),
        (Scope.LINK.value, _("Link: ask for codes and QRs, and see them")),
        (Scope.OPERATE.value, _("Operate: connect, stop, reset")),
    )

    salon = models.ForeignKey(
        Salon,
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="api_keys",
        verbose_name=_("salon"),
        help_text=_("Empty for a service key, which is good for all salons."),
    )
    name = models.CharField(
        _("name"), max_length=100, help_text=_("The audit calls the program so.")
    )
    prefix = models.CharField(
        _("begins with"), max_length=10, unique=True, help_text="Finds the row."
    )
    digest = models.CharField(max_length=64, help_text="SHA-256 of the whole key.")
    scopes = ArrayField(
        models.CharField(max_length=10, choices=SCOPES), verbose_name=_("scopes")
    )
    created_by = models.CharField(_("created by"), max_length=200)
    created_at = models.DateTimeField(_("created"), db_default=Now())
    expires_at = models.DateTimeField(_("expires"), null=True, blank=True)
    revoked_at = models.DateTimeField(_("revoked"), null=True, blank=True)
    last_used_at = models.DateTimeField(_("last used"), null=True, blank=True)
    busy_until = models.DateTimeField(
        null=True,
        blank=True,
        help_text="The rate limit: when all requests so far would have been answered, "
        "had they come evenly.",
    )

    objects = OfSalonQuerySet["ApiKey"].as_manager()

    class Meta:
        verbose_name = _("API key")
        verbose_name_plural = _("API keys")
        constraints = [
            # Revoked ones count: the audit goes on naming them.
            models.UniqueConstraint(
                fields=["salon", "name"], name="one_api_key_of_a_name_per_salon"
            ),
            models.UniqueConstraint(
                fields=["name"],
                condition=Q(salon=None),
                name="one_service_key_of_a_name",
            ),
            models.CheckConstraint(
                condition=Q(
                    scopes__contained_by=[scope.value for scope in Scope],
                    scopes__len__gt=0,
                ),
                name="api_key_has_known_scopes",
            ),
            models.CheckConstraint(
                condition=Q(digest__regex=r"^[0-9a-f]{64}$"),
                name="api_key_digest_is_a_digest",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.name} (wak_{self.prefix}…)"

    @property
    def actions(self) -> frozenset[Action]:
        """What the key may do to its salons."""
        return scopes_may(self.scopes)


class ApiAnswer(models.Model):
    """What a change with an Idempotency-Key was answered, so that it is done once.

    Answers hold no secret: codes and QRs are in an attempt only, and in no answer to a
    change.
    """

    id = models.BigAutoField(primary_key=True)
    key = models.ForeignKey(
        ApiKey, on_delete=models.CASCADE, related_name="answers", db_index=False
    )
    name = models.CharField(max_length=200, help_text="The Idempotency-Key.")
    request = models.CharField(
        max_length=64, help_text="SHA-256 of method, path and body."
    )
    status = models.SmallIntegerField()
    body = models.TextField(help_text="JSON, to the letter as it was answered.")
    at = models.DateTimeField(db_default=Now(), db_index=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["key", "name"], name="one_answer_per_idempotency_key"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.key_id}: {self.status}"
