"""The admin as a whole: who gets in, what is in its menu, how it says no."""

import logging
from collections.abc import Callable
from functools import update_wrapper
from http import HTTPStatus
from typing import Any, cast

from django.contrib.admin.views.autocomplete import AutocompleteJsonView
from django.contrib.auth.forms import AuthenticationForm as DjangoAuthenticationForm
from django.contrib.auth.models import User
from django.core.exceptions import (
    PermissionDenied,
    SuspiciousOperation,
    ValidationError,
)
from django.core.paginator import InvalidPage
from django.db import transaction
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseRedirect,
)
from django.template.response import TemplateResponse
from django.urls import URLPattern, URLResolver, reverse
from django.utils.text import capfirst
from django.utils.translation import gettext_lazy as _
from unfold.forms import AuthenticationForm
from unfold.sites import UnfoldAdminSite

from whatsapp import addresses, failures
from whatsapp.failures import Failures
from whatsapp.models import Salon
from whatsapp.roles import Action
from whatsapp.services import looks, staff

logger = logging.getLogger(__name__)

View = Callable[..., HttpResponseBase]


def person(request: HttpRequest) -> User:
    """Return who asks; every view of the admin has made sure that it is somebody."""
    return cast("User", request.user)


def actor(request: HttpRequest) -> str:
    """Return the name of whoever asks, for the audit."""
    return staff.actor(person(request))


def may_somewhere(request: HttpRequest) -> frozenset[Action]:
    """Return what whoever asks may do to any salon; read once for a request.

    It decides about menus and buttons only. What is done to a salon is judged at that
    salon, by ``Salon.objects.for_user(user, action)``.
    """
    known: frozenset[Action] | None = getattr(request, "_may_somewhere", None)
    if known is None:
        known = staff.may_somewhere(request.user)
        request._may_somewhere = known  # type: ignore[attr-defined]
    return known


def is_support(request: HttpRequest) -> bool:
    """Say whether whoever asks serves all salons; read once for a request."""
    known: bool | None = getattr(request, "_is_support", None)
    if known is None:
        known = staff.is_support(request.user)
        request._is_support = known  # type: ignore[attr-defined]
    return known


class LoginForm(AuthenticationForm):  # type: ignore[misc]  # unfold is untyped
    """Lets in whom the admin is open to; who fails often waits before the next try."""

    def clean(self) -> dict[str, Any]:
        """Judge name and password, unless there were too many tries.

        A try counts before it is judged: of a thousand at once a few are. The right
        password takes its try back.
        """
        account = self.cleaned_data.get("username")
        if not account or not self.cleaned_data.get("password"):
            return cast("dict[str, Any]", super().clean())
        home = addresses.household(self.request.META.get("REMOTE_ADDR", ""))
        counters = _counters(home, account)
        wait = max(counter.wait(*key) for counter, key in counters)
        if wait:
            self.request.login_wait = wait
            raise _too_many(wait)
        wait = max(counter.count(*key) for counter, key in counters)
        try:
            cleaned: dict[str, Any] = super().clean()
        except ValidationError:
            if wait:
                # Without the name: people type their password there, too.
                logger.warning("Failed logins from %s: next in %s s", home, wait)
            raise
        for counter, key in counters:
            counter.take_back(*key)
        failures.LOGINS_HERE.forget(home, account)
        return cleaned

    def confirm_login_allowed(self, user: Any) -> None:
        """Refuse people who serve no salon, in the words for a wrong password."""
        # Not Django's own check, which asks for is_staff.
        DjangoAuthenticationForm.confirm_login_allowed(self, user)
        if not staff.may_enter(user):
            raise self.get_invalid_login_error()


def _counters(home: str, account: str) -> list[tuple[Failures, tuple[str, ...]]]:
    """Return what counts a login, and under which keys."""
    counters: list[tuple[Failures, tuple[str, ...]]] = [
        (failures.LOGINS_HERE, (home, account)),
        (failures.LOGINS_AS, (account,)),
    ]
    # Nobody waits for all those of whom no address is known.
    return [*counters, (failures.LOGINS_FROM, (home,))] if home else counters


def _too_many(wait: int) -> ValidationError:
    text = _("Too many failed logins. Wait %(seconds)d s, then try again.")
    return ValidationError(text, code="too_many", params={"seconds": wait})


class AutocompleteView(AutocompleteJsonView):
    """Offers the objects of a field to those who may choose one there."""

    def has_perm(self, request: HttpRequest, obj: Any = None) -> bool:
        """Ask the admin of the objects that are offered."""
        allowed = getattr(self.model_admin, "has_autocomplete_permission", None)
        return bool(allowed and allowed(request))


class Site(UnfoldAdminSite):  # type: ignore[misc]  # unfold is untyped
    """The admin of salons.

    It is open to whoever serves a salon, or all of them, and to superusers. Django's
    ``is_staff`` is neither asked nor set: it would be a second list of the same people,
    and somebody whose last role was taken away would still be on it.
    """

    login_form = LoginForm

    def __init__(self, name: str = "admin") -> None:
        """Leave out what deletes many things at once."""
        super().__init__(name)
        self.disable_action("delete_selected")

    def has_permission(self, request: HttpRequest) -> bool:
        """Say whether whoever asks gets in; asked anew with every request."""
        known: bool | None = getattr(request, "_may_enter", None)
        if known is None:
            known = staff.may_enter(request.user)
            request._may_enter = known  # type: ignore[attr-defined]
        return known

    def get_urls(self) -> list[URLPattern | URLResolver]:
        """Return the routes, without the one that finds any object of any table."""
        urls: list[URLPattern | URLResolver] = super().get_urls()
        return [url for url in urls if getattr(url, "name", "") != "view_on_site"]

    def admin_view(self, view: View, cacheable: bool = False) -> View:
        """Let a view show what is true, and answer a refusal with a page of the admin."""

        def inner(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
            # PostgreSQL has no such text, and would say so from anywhere.
            if any(
                "\0" in text for values in request.GET.lists() for text in values[1]
            ):
                raise SuspiciousOperation("A parameter with a NUL.")
            looks.before_reading()
            try:
                return view(request, *args, **kwargs)
            except PermissionDenied:
                return self.refused(request)

        wrapped: View = super().admin_view(update_wrapper(inner, view), cacheable)
        return wrapped

    def refused(self, request: HttpRequest) -> HttpResponse:
        """Answer that somebody may not do this."""
        context = {**self.each_context(request), "title": _("Not allowed")}
        return TemplateResponse(request, "admin/refused.html", context, status=403)

    def login(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show the login; whoever has to wait is told so in HTTP's words, too."""
        answer: HttpResponse = super().login(request, extra_context)
        wait: int = getattr(request, "login_wait", 0)
        if wait:
            answer.status_code = HTTPStatus.TOO_MANY_REQUESTS
            answer.headers["Retry-After"] = str(wait)
        return answer

    def index(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Show the dashboard; who has one salon only is led to its page."""
        if not is_support(request):
            salons = Salon.objects.for_user(request.user)
            mine = list(salons.values_list("pk", flat=True)[:2])
            if len(mine) == 1:
                page = reverse("admin:whatsapp_salon_change", args=mine)
                return HttpResponseRedirect(page)
        answer: HttpResponse = super().index(request, extra_context)
        return answer

    def search(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Find pages of the menu; a number that is none of their list finds nothing."""
        try:
            answer: HttpResponse = super().search(request, extra_context)
        except (ValueError, InvalidPage):
            return HttpResponse()
        return answer

    def autocomplete_view(self, request: HttpRequest) -> HttpResponseBase:
        """Offer objects to choose from."""
        return AutocompleteView.as_view(admin_site=self)(request)

    def password_change(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        """Let somebody set his own password, and record that he did."""
        user = person(request)
        with transaction.atomic():
            before = user.password
            answer: HttpResponse = super().password_change(request, extra_context)
            if user.password != before:
                staff.record_user(user, user, "user_password")
        return answer


def navigation(request: HttpRequest) -> list[dict[str, Any]]:
    """Return the menu of whoever asks; what he may not see is not in it."""
    may = may_somewhere(request)
    everyday = [
        _item(_("Overview"), "space_dashboard", "admin:index"),
        _item(_("Salons"), "storefront", "admin:whatsapp_salon_changelist"),
    ]
    history = [
        _item(
            _("Link attempts"), "qr_code_2", "admin:whatsapp_pairingattempt_changelist"
        ),
        _item(_("Audit"), "history", "admin:whatsapp_auditevent_changelist"),
    ]
    people = []
    if Action.MANAGE_STAFF in may:
        people.append(
            _item(
                _("Staff of the salons"),
                "groups",
                "admin:whatsapp_membership_changelist",
            )
        )
    if Action.MANAGE_KEYS in may:
        # In the middle of a sentence it is written small.
        title = capfirst(_("API keys"))
        people.append(_item(title, "key", "admin:whatsapp_apikey_changelist"))
    if person(request).is_superuser:
        people.append(_item(_("Users"), "person", "admin:auth_user_changelist"))
    groups: list[dict[str, Any]] = [
        {"items": everyday},
        {"title": _("What happened"), "separator": True, "items": history},
    ]
    if people:
        groups.append(
            {"title": _("People and programs"), "separator": True, "items": people}
        )
    return groups


def _item(title: Any, icon: str, name: str) -> dict[str, Any]:
    return {"title": title, "icon": icon, "link": reverse(name)}
