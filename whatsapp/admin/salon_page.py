"""The page of one salon: how it is, and what happened."""

from typing import Any

from django.contrib.admin.utils import unquote
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.translation import gettext_lazy as _

from whatsapp import events, statuses
from whatsapp.admin import cells
from whatsapp.admin.forms import SalonForm
from whatsapp.admin.salon_actions import SalonActionsAdmin, buttons
from whatsapp.admin_site import actor, is_support, may_somewhere
from whatsapp.models import Salon
from whatsapp.phones import mask_phone
from whatsapp.roles import Action
from whatsapp.services import (
    archives,
    reports,
    salons,
    staff,
    timeline,
    words,
)

HISTORY_SIZE = 100


class SalonPageAdmin(SalonActionsAdmin):
    """The page of one salon."""

    form = SalonForm
    change_form_template = "admin/whatsapp/salon/change_form.html"
    change_list_template = "admin/whatsapp/salon/change_list.html"

    # --- who may ----------------------------------------------------------------------

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Support makes salons; nobody else edits those that are not his."""
        return is_support(request) and Action.EDIT in may_somewhere(request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Say whether whoever asks may edit the salon."""
        if obj is None:
            return Action.EDIT in may_somewhere(request)
        mine = Salon.objects.for_user(request.user, Action.EDIT)
        return mine.filter(pk=obj.pk).exists()

    def has_autocomplete_permission(self, request: HttpRequest) -> bool:
        """Salons are offered where somebody's role is given."""
        return Action.MANAGE_STAFF in may_somewhere(request)

    # --- its fields -------------------------------------------------------------------

    def get_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        """Return the fields; the expected phone is for those who may change it."""
        if obj is None or self.has_change_permission(request, obj):
            return ["salon_id", "title", "expected_phone", "shared_phone_allowed"]
        return ["salon_id", "title", "masked_expected_phone", "shared_phone_allowed"]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        """Return what cannot be changed."""
        if obj is None:
            return []
        return ["salon_id", "masked_expected_phone"]

    def masked_expected_phone(self, salon: Salon) -> str:
        """The expected phone, for those who may not edit it."""
        return mask_phone(salon.expected_phone) or cells.NOTHING

    masked_expected_phone.short_description = _("expected phone")  # type: ignore[attr-defined]

    def save_model(
        self, request: HttpRequest, obj: Any, form: Any, change: bool
    ) -> None:
        """Let the services change or make the salon."""
        who = actor(request)
        if not change:
            made = salons.create(obj.salon_id, obj.title, who)
            obj.pk, obj._state.adding = made.pk, False
        salons.update(
            obj,
            who,
            title=obj.title,
            expected_phone=obj.expected_phone,
            shared_phone_allowed=obj.shared_phone_allowed,
        )

    def response_post_save_add(
        self, request: HttpRequest, obj: Any
    ) -> HttpResponseRedirect:
        """Lead to the page of a new salon: linking its phone comes next."""
        return self._back(obj)

    def response_post_save_change(
        self, request: HttpRequest, obj: Any
    ) -> HttpResponseRedirect:
        """Stay on the page."""
        return self._back(obj)

    # --- the page ---------------------------------------------------------------------

    def render_change_form(
        self,
        request: HttpRequest,
        context: dict[str, Any],
        add: bool = False,
        change: bool = False,
        form_url: str = "",
        obj: Any = None,
    ) -> HttpResponse:
        """Show the page; a new salon has only its form."""
        context["show_save_and_add_another"] = False
        context["show_save_and_continue"] = False
        if obj is not None and obj.pk:
            context |= self._page(request, obj)
        return super().render_change_form(request, context, add, change, form_url, obj)

    def _page(self, request: HttpRequest, salon: Salon) -> dict[str, Any]:
        allowed = staff.may(request.user, salon)
        snapshot = events.snapshot(salon.pk)
        story = timeline.page(salon, request.GET.get("older", ""))
        return {
            "title": salon.title,
            "subtitle": None,
            "status_socket": cells.SOCKET,
            "cells": cells.of_salon(salon),
            "sentence": snapshot and statuses.payload(snapshot)["message"],
            "why": words.reason(cells.session_of(salon).reason),
            "buttons": buttons(salon, allowed),
            "may_link": Action.LINK in allowed,
            "link_socket": f"/ws/admin/salon/{salon.pk}/",
            "link_phone": salon.expected_phone if Action.EDIT in allowed else "",
            "archive": _archive(salon, allowed),
            "keys": reports.key_counts(salon),
            "story": _story(story),
            "is_older": "older" in request.GET,
            "may_edit": Action.EDIT in allowed,
            "may_manage_staff": Action.MANAGE_STAFF in allowed,
        }

    def history_view(
        self,
        request: HttpRequest,
        object_id: str,
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Show what happened, more of it than fits on the salon's page."""
        salon = self.get_object(request, unquote(object_id))
        if salon is None:
            return self._missing(request, object_id)
        story = timeline.page(salon, request.GET.get("older", ""), HISTORY_SIZE)
        context = {
            **self._frame(request, salon, _("What happened")),
            "status_socket": cells.SOCKET,
            "story": _story(story),
            "is_older": "older" in request.GET,
        }
        return TemplateResponse(request, "admin/whatsapp/salon/history.html", context)


def _archive(salon: Salon, allowed: frozenset[Action]) -> list[dict[str, Any]]:
    """Return the archived links, without what is in them."""
    if Action.RESTORE not in allowed:
        return []
    return [
        {
            "phone": mask_phone(entry.phone) or cells.NOTHING,
            "when": cells.time(entry.archived_at),
            "why": words.archived(entry.reason),
            # In the future, which the script does not put into words.
            "until": cells.absolute(entry.purge_at),
            "address": reverse(
                "admin:whatsapp_salon_restore", args=[salon.pk, entry.pk]
            ),
        }
        for entry in archives.restorable(salon)
    ]


def _story(page: timeline.Page) -> dict[str, Any]:
    entries = [{"entry": entry, "when": cells.time(entry.at)} for entry in page.entries]
    return {"entries": entries, "older": page.older}
