"""Link attempts and the audit: to be read by whoever may see the salon, and by nobody changed."""

from typing import Any

from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponseBase
from django.urls import URLPattern, path
from django.utils.html import format_html
from django.utils.translation import gettext_lazy as _

from whatsapp.admin import cells, exports
from whatsapp.admin.base import OwnRowsAdmin
from whatsapp.models import AuditEvent, PairingAttempt
from whatsapp.phones import mask_phone
from whatsapp.services import words


class ActionFilter(admin.SimpleListFilter):
    """What was done."""

    title = _("what")
    parameter_name = "action"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return every action that there can be: no query for those that there are."""
        return words.actions()

    def queryset(
        self, request: HttpRequest, queryset: QuerySet[AuditEvent]
    ) -> QuerySet[AuditEvent]:
        """Return the events of the chosen action."""
        return queryset.filter(action=self.value()) if self.value() else queryset


class RecordsAdmin(OwnRowsAdmin):
    """Rows about salons that only services write."""

    allowed_lookups = frozenset({"salon", "salon__id", "salon__id__exact"})
    search_help_text = _("Salon id or title")
    actions = None

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        """Return all of them."""
        return list(self.fields or ())

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Find rows by their salon and by who did it."""
        for term in search_term.split()[:5]:
            queryset = queryset.filter(self.search(term))
        return queryset, False

    def search(self, term: str) -> Q:
        """Return what a word of the search stands for."""
        found = Q(salon__title__icontains=term)
        number = term.removeprefix("company_")
        if number.isascii() and number.isdigit() and len(number) < 19:
            found |= Q(salon__salon_id=int(number))
        return found

    @admin.display(description=_("salon"), ordering="salon__title")
    def salon_name(self, row: Any) -> str:
        """The salon, if it is about one."""
        return str(row.salon) if row.salon else cells.NOTHING


@admin.register(PairingAttempt)
class PairingAttemptAdmin(RecordsAdmin):
    """Link attempts, without what could be used to link."""

    list_display = [
        "requested",
        "salon_name",
        "kind",
        "stage",
        "masked_phone",
        "error_words",
        "who",
    ]
    list_filter = ["kind", "stage"]
    list_select_related = ["salon"]
    search_fields = ["salon__title"]
    ordering = ["-id"]
    fields = [
        "salon_name",
        "kind",
        "fresh",
        "stage",
        "masked_phone",
        "error_words",
        "who",
        "requested_at",
        "finished_at",
    ]

    @admin.display(description=_("requested"), ordering="requested_at")
    def requested(self, attempt: PairingAttempt) -> str:
        """When it was asked for."""
        return cells.time(attempt.requested_at)

    @admin.display(description=_("phone"))
    def masked_phone(self, attempt: PairingAttempt) -> str:
        """The phone that was linked, or that a code is for."""
        return mask_phone(attempt.linked_phone or attempt.phone) or cells.NOTHING

    @admin.display(description=_("why"), ordering="error")
    def error_words(self, attempt: PairingAttempt) -> str:
        """Why it came to nothing."""
        return words.reason(attempt.error) or cells.NOTHING

    @admin.display(description=_("who"), ordering="requested_by")
    def who(self, attempt: PairingAttempt) -> str:
        """Who asked for it."""
        return words.actor(attempt.requested_by)


@admin.register(AuditEvent)
class AuditEventAdmin(RecordsAdmin):
    """Who did what."""

    list_display = ["when", "salon_name", "who", "what", "details"]
    list_filter = [ActionFilter]
    list_select_related = ["salon"]
    search_fields = ["salon__title", "actor"]
    date_hierarchy = "at"
    allowed_lookups = RecordsAdmin.allowed_lookups | {
        "at__gte",
        "at__lt",
        "at__year",
        "at__month",
        "at__day",
    }
    search_help_text = _("Salon id, title or user")
    ordering = ["-id"]
    fields = ["when", "salon_name", "who", "what", "details"]
    list_before_template = "admin/whatsapp/export_line.html"

    def search(self, term: str) -> Q:
        """Find events by the person, too."""
        return super().search(term) | Q(actor__icontains=term)

    def get_urls(self) -> list[URLPattern]:
        """Return the routes, with the export."""
        export = path(
            "export/",
            self.admin_site.admin_view(self.export_view),
            name="whatsapp_auditevent_export",
        )
        return [export, *super().get_urls()]

    def export_view(self, request: HttpRequest) -> HttpResponseBase:
        """Answer with what the list shows, as a file."""
        return exports.answer(self, request, "audit", exports.AUDIT)

    @admin.display(description=_("when"), ordering="at")
    def when(self, event: AuditEvent) -> str:
        """When it was done."""
        return cells.time(event.at)

    @admin.display(description=_("who"), ordering="actor")
    def who(self, event: AuditEvent) -> str:
        """Who did it."""
        return words.actor(event.actor)

    @admin.display(description=_("what"), ordering="action")
    def what(self, event: AuditEvent) -> str:
        """What was done."""
        return format_html(
            '<span title="{}">{}</span>', event.action, words.action(event.action)
        )

    @admin.display(description=_("details"))
    def details(self, event: AuditEvent) -> str:
        """What else is to be known of it."""
        return words.detail(event.detail) or cells.NOTHING
