"""Django's admin: salons and their staff to edit, the rest to read; never creds or keys."""

from typing import TYPE_CHECKING, Any, TypeAlias

from django.contrib import admin
from django.http import HttpRequest

from whatsapp.models import (
    AuditEvent,
    Membership,
    PairingAttempt,
    Salon,
    WhatsAppSession,
)
from whatsapp.phones import mask_phone

if TYPE_CHECKING:  # generic in the stubs only
    ModelAdmin: TypeAlias = admin.ModelAdmin[Any]
    TabularInline: TypeAlias = admin.TabularInline[Any, Any]
else:
    ModelAdmin, TabularInline = admin.ModelAdmin, admin.TabularInline


class ReadOnlyAdmin(ModelAdmin):
    """Shows rows that only services write."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nobody adds one."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody changes one."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody deletes one."""
        return False


class MembershipInline(TabularInline):
    """The staff of a salon."""

    model = Membership
    extra = 0
    autocomplete_fields = ["user"]


@admin.register(Salon)
class SalonAdmin(ModelAdmin):
    """Salons."""

    list_display = ["salon_id", "title", "status"]
    search_fields = ["title", "=salon_id"]
    list_select_related = ["session"]
    readonly_fields = ["created_at"]
    inlines = [MembershipInline]

    @admin.display(ordering="session__status")
    def status(self, salon: Salon) -> str:
        """The status of the salon's session."""
        session = getattr(salon, "session", None)
        return str(session.get_status_display()) if session else "-"

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """A salon that goes takes a link with it that its phone still lists: reset first."""
        return False


@admin.register(Membership)
class MembershipAdmin(ModelAdmin):
    """Who works for which salon."""

    list_display = ["user", "salon", "role"]
    list_filter = ["role"]
    search_fields = ["user__username", "salon__title", "=salon__salon_id"]
    autocomplete_fields = ["user", "salon"]
    list_select_related = ["user", "salon"]


@admin.register(WhatsAppSession)
class WhatsAppSessionAdmin(ReadOnlyAdmin):
    """Sessions."""

    list_display = ["salon", "status", "reason", "since", "owner", "last_alive_at"]
    list_filter = ["status"]
    search_fields = ["salon__title", "=salon__salon_id"]
    list_select_related = ["salon"]
    exclude = ["phone"]
    readonly_fields = ["masked_phone"]

    @admin.display(description="phone")
    def masked_phone(self, session: WhatsAppSession) -> str:
        """The linked phone."""
        return mask_phone(session.phone) or "-"


@admin.register(PairingAttempt)
class PairingAttemptAdmin(ReadOnlyAdmin):
    """Link attempts, without what could be used to link."""

    list_display = ["salon", "kind", "stage", "error", "requested_at", "requested_by"]
    list_filter = ["kind", "stage", "error"]
    search_fields = ["salon__title", "=salon__salon_id"]
    list_select_related = ["salon"]
    exclude = ["code", "qr", "phone", "linked_phone"]
    readonly_fields = ["masked_phone"]

    @admin.display(description="phone")
    def masked_phone(self, attempt: PairingAttempt) -> str:
        """The phone that a code is for, or that was linked."""
        return mask_phone(attempt.phone or attempt.linked_phone) or "-"


@admin.register(AuditEvent)
class AuditEventAdmin(ReadOnlyAdmin):
    """Who did what."""

    list_display = ["at", "salon", "actor", "action", "detail"]
    list_filter = ["action"]
    search_fields = ["salon__title", "=salon__salon_id", "actor"]
    list_select_related = ["salon"]
    date_hierarchy = "at"
