"""What may be done to a salon in the admin: the buttons, and the pages behind them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
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

from whatsapp.admin import cells
from whatsapp.admin.answers import ANSWERS
from whatsapp.admin.base import OwnRowsAdmin
from whatsapp.admin.forms import LinkForm, ResetForm
from whatsapp.admin_site import actor
from whatsapp.errors import WhatsAppError
from whatsapp.models import Salon, WhatsAppSession
from whatsapp.phones import mask_phone
from whatsapp.roles import Action
from whatsapp.services import archives, credentials, sessions, tokens, words
from whatsapp.services.sessions import Restored

Status = WhatsAppSession.Status


@dataclass(frozen=True, slots=True)
class Button:
    """What may be done to a salon, as its page offers it."""

    action: Action
    view: str
    title: Promise
    icon: str
    variant: str = "default"


CONNECT = Button(Action.CONNECT, "reconnect", _("Connect"), "sync")
CONNECT_ANEW = Button(Action.CONNECT, "reconnect", _("Connect anew"), "sync")
DISCONNECT = Button(Action.DISCONNECT, "disconnect", _("Stop the connection"), "pause")
LINK = Button(Action.ISSUE_LINK, "link", _("Link for the salon"), "link")
RESET = Button(Action.RESET, "reset", _("Reset the link"), "delete_forever", "danger")


def buttons(salon: Salon, allowed: frozenset[Action]) -> list[dict[str, Any]]:
    """Return what may be done and makes sense now."""
    return [
        {
            "address": reverse(f"admin:whatsapp_salon_{button.view}", args=[salon.pk]),
            "title": button.title,
            "icon": button.icon,
            "variant": button.variant,
        }
        for button in _sensible(salon)
        if button.action in allowed
    ]


def _sensible(salon: Salon) -> Iterator[Button]:
    session = cells.session_of(salon)
    linked = credentials.stored(salon).linked
    stopped = session.status == Status.STOPPED and not session.wanted
    if linked and session.status != Status.BANNED:
        yield CONNECT if stopped else CONNECT_ANEW
    if linked and not stopped:
        yield DISCONNECT
    yield LINK
    # Creds that nobody finished linking are something to forget, too.
    if linked or session.status != Status.UNLINKED or session.reason:
        yield RESET


class SalonActionsAdmin(OwnRowsAdmin):
    """Asks, does it, and answers; each action has an address of its own."""

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
            "cells": cells.of_salon(salon),
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
