"""The page of one salon: how it is, what happened, and what may be done to it."""

from collections.abc import Callable
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from whatsapp import events, statuses
from whatsapp.admin import cells
from whatsapp.admin.answers import ANSWERS
from whatsapp.admin.base import OwnRowsAdmin
from whatsapp.admin.forms import LinkForm, ResetForm, SalonForm
from whatsapp.admin_site import actor, is_support, may_somewhere
from whatsapp.errors import WhatsAppError
from whatsapp.models import Salon, WhatsAppSession
from whatsapp.phones import mask_phone
from whatsapp.roles import Action
from whatsapp.services import (
    archives,
    credentials,
    reports,
    salons,
    sessions,
    staff,
    timeline,
    tokens,
    words,
)
from whatsapp.services.sessions import Restored

Status = WhatsAppSession.Status

HISTORY_SIZE = 100


class SalonPageAdmin(OwnRowsAdmin):
    """The page of one salon, and what can be done there."""

    form = SalonForm
    change_form_template = "admin/whatsapp/salon/change_form.html"
    change_list_template = "admin/whatsapp/salon/change_list.html"

    def get_urls(self) -> list[URLPattern]:
        """Return the routes, ours before those that take anything for a primary key."""
        views: dict[str, Callable[..., HttpResponse]] = {
            "reconnect": self.reconnect_view,
            "disconnect": self.disconnect_view,
            "reset": self.reset_view,
            "link": self.link_view,
            "restore/<int:entry_id>": self.restore_view,
        }
        ours = [
            path(
                f"<path:object_id>/{route}/",
                self.admin_site.admin_view(view),
                name=f"whatsapp_salon_{route.partition('/')[0]}",
            )
            for route, view in views.items()
        ]
        return [*ours, *super().get_urls()]

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
            "cells": _cells(salon),
            "sentence": snapshot and statuses.payload(snapshot)["message"],
            "why": words.reason(cells.session_of(salon).reason),
            "buttons": _buttons(salon, allowed),
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

    # --- what can be done -------------------------------------------------------------

    def _asked(
        self, request: HttpRequest, object_id: str, action: Action
    ) -> Salon | HttpResponse:
        """Return the salon, if whoever asks may do this to it.

        One that he may not see is missing, in Django's own words for what never was.
        """
        salon: Salon | None = self.get_object(request, unquote(object_id))
        if salon is None:
            return self._missing(request, object_id)
        mine = Salon.objects.for_user(request.user, action)
        if not mine.filter(pk=salon.pk).exists():
            raise PermissionDenied
        return salon

    def reconnect_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Close the connection, if there is one, and open it anew."""
        salon = self._asked(request, object_id, Action.CONNECT)
        if isinstance(salon, HttpResponse):
            return salon
        if request.method == "POST":
            outcome = sessions.reconnect(salon, actor(request))
            return self._answer(request, salon, f"reconnect {outcome}")
        return self._confirm(
            request,
            salon,
            _("Connect anew?"),
            [
                _("The connection to WhatsApp is closed, if there is one, and opened."),
                _("That takes a few seconds. The link and the chats stay."),
            ],
            _("Connect anew"),
        )

    def disconnect_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Stop the connection and keep the link."""
        salon = self._asked(request, object_id, Action.DISCONNECT)
        if isinstance(salon, HttpResponse):
            return salon
        if request.method == "POST":
            outcome = sessions.disconnect(salon, actor(request))
            return self._answer(request, salon, f"disconnect {outcome}")
        return self._confirm(
            request,
            salon,
            _("Stop the connection?"),
            [
                _("AI Admin stops answering this salon's clients."),
                _("The link is kept: the salon can be connected again at any time."),
            ],
            _("Stop the connection"),
        )

    def reset_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Forget the link, after its salon id has been typed."""
        salon = self._asked(request, object_id, Action.RESET)
        if isinstance(salon, HttpResponse):
            return salon
        form = ResetForm(salon, request.POST if request.method == "POST" else None)
        if form.is_valid():
            sessions.reset(salon, actor(request))
            return self._answer(request, salon, "reset done")
        return self._confirm(
            request,
            salon,
            _("Reset the link?"),
            [
                _("The link is forgotten, and our device is removed from the phone."),
                _("AI Admin stops answering clients until a phone is linked again."),
                _("Chats on the phone stay."),
                _("This cannot be undone: a reset link does not go to the archive."),
                _("Type {salon_id} to go on.").format(salon_id=salon.salon_id),
            ],
            _("Reset the link"),
            form=form,
            is_dangerous=True,
        )

    def restore_view(
        self, request: HttpRequest, object_id: str, entry_id: int
    ) -> HttpResponse:
        """Bring an archived link back."""
        salon = self._asked(request, object_id, Action.RESTORE)
        if isinstance(salon, HttpResponse):
            return salon
        if request.method == "POST":
            try:
                outcome = sessions.restore(salon, actor(request), entry_id)
            except WhatsAppError as error:
                self.message_user(request, error.message, messages.ERROR)
                return self._back(salon)
            return self._answer(request, salon, f"restore {outcome}")
        # Ids come from outside, and not every number fits into the column.
        entries = {entry.pk: entry for entry in archives.restorable(salon)}
        if entry_id not in entries:
            return self._answer(request, salon, f"restore {Restored.GONE}")
        entry = entries[entry_id]
        return self._confirm(
            request,
            salon,
            _("Restore the archived link?"),
            [
                _("The link of the phone {phone} is taken out of the archive.").format(
                    phone=mask_phone(entry.phone)
                ),
                _("It was archived because: {why}.").format(
                    why=words.archived(entry.reason)
                ),
                _("The salon is connected with it at once."),
                _("If the phone has removed the device, WhatsApp will refuse it."),
            ],
            _("Restore the link"),
        )

    def link_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Issue an address of the linking page, shown this once."""
        salon = self._asked(request, object_id, Action.ISSUE_LINK)
        if isinstance(salon, HttpResponse):
            return salon
        form = LinkForm(request.POST if request.method == "POST" else None)
        address = ""
        if form.is_valid():
            lifetime = form.cleaned_data["lifetime"]
            token = tokens.issue_for_person(salon, actor(request), lifetime)
            address = (
                f"{request.build_absolute_uri(reverse('marketplace'))}#token={token}"
            )
        context = {
            **self._frame(request, salon, _("Link to the linking page")),
            "form": form,
            "address": address,
        }
        response = TemplateResponse(request, "admin/whatsapp/salon/link.html", context)
        response.headers["Cache-Control"] = "no-store"
        return response

    def _missing(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Answer as Django's own pages do."""
        answer: HttpResponse = self._get_obj_does_not_exist_redirect(  # type: ignore[attr-defined]  # not in the stubs
            request, self.opts, object_id
        )
        return answer

    def _frame(
        self, request: HttpRequest, salon: Salon, title: str | Promise
    ) -> dict[str, Any]:
        return {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "original": salon,
            "title": title,
            "subtitle": str(salon),
            "page": reverse("admin:whatsapp_salon_change", args=[salon.pk]),
        }

    def _confirm(
        self,
        request: HttpRequest,
        salon: Salon,
        title: str | Promise,
        sentences: list[str | Promise],
        submit: str | Promise,
        *,
        form: forms.Form | None = None,
        is_dangerous: bool = False,
    ) -> HttpResponse:
        """Say what will happen, and ask."""
        context = {
            **self._frame(request, salon, title),
            "cells": _cells(salon),
            "status_socket": cells.SOCKET,
            "sentences": sentences,
            "submit_label": submit,
            "form": form,
            "is_dangerous": is_dangerous,
        }
        return TemplateResponse(request, "admin/whatsapp/salon/confirm.html", context)

    def _answer(self, request: HttpRequest, salon: Salon, outcome: str) -> HttpResponse:
        level, sentence = ANSWERS[outcome]
        self.message_user(request, str(sentence), level)
        return self._back(salon)

    @staticmethod
    def _back(salon: Salon) -> HttpResponseRedirect:
        page = reverse("admin:whatsapp_salon_change", args=[salon.pk])
        return HttpResponseRedirect(page)


def _cells(salon: Salon) -> dict[str, str]:
    return {
        "status": cells.status(salon),
        "phone": cells.phone(salon),
        "since": cells.since(salon),
        "alive": cells.alive(salon),
        "owner": cells.owner(salon),
    }


def _buttons(salon: Salon, allowed: frozenset[Action]) -> list[dict[str, Any]]:
    """Return what may be done and makes sense now."""
    session = cells.session_of(salon)
    linked = credentials.stored(salon).linked
    stopped = session.status == Status.STOPPED and not session.wanted
    buttons: list[tuple[bool, Action, str, Promise, str, str]] = [
        (
            linked and session.status != Status.BANNED,
            Action.CONNECT,
            "reconnect",
            _("Connect") if stopped else _("Connect anew"),
            "sync",
            "default",
        ),
        (
            linked and not stopped,
            Action.DISCONNECT,
            "disconnect",
            _("Stop the connection"),
            "pause",
            "default",
        ),
        (
            True,
            Action.ISSUE_LINK,
            "link",
            _("Link for the salon"),
            "link",
            "default",
        ),
        (
            # Creds that nobody finished linking are something to forget, too.
            linked or session.status != Status.UNLINKED or bool(session.reason),
            Action.RESET,
            "reset",
            _("Reset the link"),
            "delete_forever",
            "danger",
        ),
    ]
    return [
        {
            "address": reverse(f"admin:whatsapp_salon_{name}", args=[salon.pk]),
            "title": title,
            "icon": icon,
            "variant": variant,
        }
        for sensible, action, name, title, icon, variant in buttons
        if sensible and action in allowed
    ]


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
