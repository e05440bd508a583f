"""The list of salons: how each is, found by what people know of it, many changed at once."""

import logging
from typing import Any

from django.contrib import admin, messages
from django.db import DatabaseError
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from whatsapp import alerts
from whatsapp.admin import cells, exports
from whatsapp.admin.salon_page import SalonPageAdmin
from whatsapp.admin_site import actor, is_support, may_somewhere
from whatsapp.models import Salon, WhatsAppSession
from whatsapp.roles import Action
from whatsapp.services import audit, reports, sessions, words

logger = logging.getLogger(__name__)

Status = WhatsAppSession.Status

BULK_LIMIT = 500
"""So many salons can be changed by one request; it takes a few seconds."""

BULK_RESULT = "whatsapp_bulk"
"""Where the login session keeps what became of the last one."""

SHOWN_DIGITS = 4
"""Of a masked phone: what everybody sees may be searched for, and no more of it."""


class StatusFilter(admin.SimpleListFilter):
    """Salons by the status of their session."""

    title = _("status")
    parameter_name = "status"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        """Return all statuses."""
        return list(Status.choices)

    def queryset(
        self, request: HttpRequest, queryset: QuerySet[Salon]
    ) -> QuerySet[Salon]:
        """Return the salons of one status; without a session it is unlinked."""
        value = self.value()
        if not value:
            return queryset
        found = Q(session__status=value)
        if value == Status.UNLINKED:
            found |= Q(session=None)
        return queryset.filter(found)


class OwnerFilter(admin.SimpleListFilter):
    """Salons by the gateway that runs them; linked to from the overview."""

    title = _("gateway")
    parameter_name = "owner"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the gateways that run any of one's own salons."""
        rows = WhatsAppSession.objects.filter(
            salon__in=Salon.objects.for_user(request.user)
        ).exclude(owner="")
        names = rows.order_by("owner").values_list("owner", flat=True).distinct()
        return [(name, name) for name in names[:100]]

    def queryset(
        self, request: HttpRequest, queryset: QuerySet[Salon]
    ) -> QuerySet[Salon]:
        """Return the salons of one gateway."""
        return (
            queryset.filter(session__owner=self.value()) if self.value() else queryset
        )


@admin.register(Salon)
class SalonAdmin(SalonPageAdmin):
    """Salons."""

    list_display = [
        "title",
        "salon_id",
        "status",
        "phone",
        "since",
        "alive",
        "owner",
    ]
    list_select_related = ["session"]
    list_filter = [StatusFilter, OwnerFilter]
    search_fields = ["title"]
    search_help_text = _("Title, salon id or the last digits of the phone")
    ordering = ["title", "pk"]
    actions = ["reconnect_selected", "disconnect_selected"]
    list_before_template = "admin/whatsapp/salon/states.html"

    def get_urls(self) -> list[URLPattern]:
        """Return the routes, ours before those that take anything for a primary key."""
        view = self.admin_site.admin_view
        return [
            path("bulk/", view(self.bulk_view), name="whatsapp_salon_bulk"),
            path("export/", view(self.export_view), name="whatsapp_salon_export"),
            *super().get_urls(),
        ]

    def get_list_display(self, request: HttpRequest) -> list[Any]:
        """Return the columns; gateways are nothing to the salons' own staff."""
        shown = list(self.list_display)
        return shown if is_support(request) else [c for c in shown if c != "owner"]

    def get_list_filter(self, request: HttpRequest) -> list[Any]:
        """Return the filters; gateways are nothing to the salons' own staff."""
        return [StatusFilter, OwnerFilter] if is_support(request) else [StatusFilter]

    # --- cells ------------------------------------------------------------------------

    @admin.display(description=_("status"), ordering="session__status")
    def status(self, salon: Salon) -> SafeString:
        """The status of the session."""
        return cells.status(salon)

    # Not to be sorted by: the order would tell the digits that the mask hides.
    @admin.display(description=_("phone"))
    def phone(self, salon: Salon) -> SafeString:
        """The linked phone, masked."""
        return cells.phone(salon)

    @admin.display(description=_("since"), ordering="session__since")
    def since(self, salon: Salon) -> SafeString:
        """When the status last changed."""
        return cells.since(salon)

    @admin.display(description=_("last alive"), ordering="session__last_alive_at")
    def alive(self, salon: Salon) -> SafeString:
        """The last proof of life."""
        return cells.alive(salon)

    @admin.display(description=_("gateway"), ordering="session__owner")
    def owner(self, salon: Salon) -> SafeString:
        """The gateway."""
        return cells.owner(salon)

    # --- searching --------------------------------------------------------------------

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Find salons by every word of the search."""
        for term in search_term.split()[:5]:
            queryset = queryset.filter(_search(term))
        return queryset, False

    # --- the list ---------------------------------------------------------------------

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show the list, with how many there are in each state."""
        context = {
            "status_socket": cells.SOCKET,
            "states": self._states(request),
            **(extra_context or {}),
        }
        return super().changelist_view(request, context)

    def _states(self, request: HttpRequest) -> list[dict[str, Any]]:
        counts = reports.states(Salon.objects.for_user(request.user))
        chosen = request.GET.get(StatusFilter.parameter_name, "")
        states = [
            {
                "status": status,
                "title": words.status(status),
                "count": count,
                "is_chosen": status == chosen,
            }
            for status, count in counts.items()
            if count or status == chosen
        ]
        everything = {
            "status": "",
            "title": str(_("All")),
            "count": sum(counts.values()),
            "is_chosen": not chosen,
        }
        return [everything, *states]

    def export_view(self, request: HttpRequest) -> HttpResponseBase:
        """Answer with what the list shows, as a file."""
        return exports.answer(self, request, "salons", exports.SALONS)

    # --- many at once -----------------------------------------------------------------

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """Return what somebody may do to at least one salon."""
        if request.GET.get("_popup"):
            return {}
        needed = {
            "reconnect_selected": Action.CONNECT,
            "disconnect_selected": Action.DISCONNECT,
        }
        allowed = may_somewhere(request)
        return {
            name: entry
            for name, entry in super().get_actions(request).items()
            if needed.get(name) in allowed
        }

    @admin.action(description=_("Connect anew"))
    def reconnect_selected(
        self, request: HttpRequest, queryset: QuerySet[Salon]
    ) -> HttpResponse | None:
        """Connect the chosen salons anew; those that are connected are left alone."""
        return self._bulk(request, queryset, Action.CONNECT)

    @admin.action(description=_("Stop the connection"))
    def disconnect_selected(
        self, request: HttpRequest, queryset: QuerySet[Salon]
    ) -> HttpResponse | None:
        """Stop the chosen salons; their links are kept."""
        return self._bulk(request, queryset, Action.DISCONNECT)

    def _bulk(
        self, request: HttpRequest, queryset: QuerySet[Salon], action: Action
    ) -> HttpResponse | None:
        salons = list(queryset.order_by("pk")[: BULK_LIMIT + 1])
        if len(salons) > BULK_LIMIT:
            message = _(
                "At most {limit} salons can be changed at once. Nothing was done: "
                "choose fewer, by a filter or page by page."
            ).format(limit=BULK_LIMIT)
            self.message_user(request, message, messages.ERROR)
            return None
        pks = [salon.pk for salon in salons]
        mine = Salon.objects.for_user(request.user, action).filter(pk__in=pks)
        allowed = set(mine.values_list("pk", flat=True))
        who = actor(request)
        outcomes = {
            str(salon.pk): _do(salon, who, action)
            if salon.pk in allowed
            else "not_allowed"
            for salon in salons
        }
        name = "reconnect" if action is Action.CONNECT else "disconnect"
        audit.record(None, who, f"bulk_{name}", salons=len(salons))
        request.session[BULK_RESULT] = {"action": name, "outcomes": outcomes}
        return redirect("admin:whatsapp_salon_bulk")

    def bulk_view(self, request: HttpRequest) -> HttpResponse:
        """Show what has become of the last change of many salons."""
        result = request.session.get(BULK_RESULT)
        if not isinstance(result, dict):
            return redirect("admin:whatsapp_salon_changelist")
        outcomes: dict[str, str] = result["outcomes"]
        # Judged anew: a salon may have been taken from somebody meanwhile.
        salons = (
            Salon.objects.for_user(request.user)
            .filter(pk__in=[int(pk) for pk in outcomes])
            .select_related("session")
            .order_by("title", "pk")
        )
        rows = [_row(salon, outcomes[str(salon.pk)]) for salon in salons]
        under_way = [row for row in rows if row["outcome"] in _UNDER_WAY]
        target = Status.OPEN if result["action"] == "reconnect" else Status.STOPPED
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": _("Connecting anew")
            if target == Status.OPEN
            else _("Stopping connections"),
            "status_socket": cells.SOCKET,
            "target": target.value,
            "under_way": under_way,
            "done": sum(row["status"] == target for row in under_way),
            "others": [row for row in rows if row["outcome"] not in _UNDER_WAY],
            "list": reverse("admin:whatsapp_salon_changelist"),
        }
        return TemplateResponse(request, "admin/whatsapp/salon/bulk.html", context)


_UNDER_WAY = ("started", "under_way", "stopping", "stopped")


def _do(salon: Salon, who: str, action: Action) -> str:
    """Do to one of many what was asked for; the others go on if it fails."""
    try:
        if action is Action.CONNECT:
            return sessions.reconnect(salon, who, leave_open=True).value
        return sessions.disconnect(salon, who).value
    except DatabaseError:
        logger.exception(
            "%s: %s failed",
            salon.session_id,
            action,
            extra=alerts.tags("bulk", company_id=salon.session_id),
        )
        return "failed"


def _row(salon: Salon, outcome: str) -> dict[str, Any]:
    return {
        "salon": salon,
        "cell": cells.status(salon),
        "alive": cells.alive(salon),
        "status": cells.session_of(salon).status,
        "outcome": outcome,
        "words": words.outcome(outcome),
    }


def _search(term: str) -> Q:
    """Return what a word of the search stands for.

    Of phones only as many digits are compared as everybody sees of a masked one. A
    longer number finds nothing, right or wrong, so that nobody can try them out.
    """
    found = Q(title__icontains=term)
    number = term.removeprefix("company_")
    if not (number.isascii() and number.isdigit()):
        return found
    if len(number) < 19:
        found |= Q(salon_id=int(number))
    if 3 <= len(number) <= SHOWN_DIGITS and number == term:
        # Shorter phones are shown without any digit.
        found |= Q(session__phone__endswith=number, session__phone__regex=".{10}")
    return found
