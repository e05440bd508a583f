"""Tables, and the promises that the database itself keeps about them."""

from typing import TYPE_CHECKING, Self, TypeAlias, TypeVar

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Exists, F, OuterRef, Q, Value
from django.db.models.functions import Now, Right
from django.utils.translation import gettext_lazy as _

from whatsapp.roles import Action, Role, Scope, roles_that_may, scopes_may

if TYPE_CHECKING:
    from django.contrib.auth.base_user import AbstractBaseUser
    from django.contrib.auth.models import AnonymousUser

DIGITS = r"^[0-9]{7,15}$"

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
