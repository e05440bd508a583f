"""Keys of the API: made and shown once, listed without what opens anything, revoked."""

from datetime import timedelta
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.contrib.auth.models import User
from django.core.exceptions import ValidationError
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.timezone import now
from django.utils.translation import gettext_lazy as _
from unfold.widgets import (
    UnfoldAdminCheckboxSelectMultipleWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextInputWidget,
)

from whatsapp.admin import cells
from whatsapp.admin.base import KeyModelForm, OwnRowsAdmin
from whatsapp.admin_site import actor, is_support, may_somewhere, person
from whatsapp.models import ApiKey, Salon
from whatsapp.roles import Action
from whatsapp.services import api_keys, salons, words


class ApiKeyForm(KeyModelForm):
    """What a new key is for."""

    by: User
    """Who asks; set by the admin."""

    LIFETIMES = (
        (30, _("30 days")),
        (90, _("90 days")),
        (365, _("a year")),
        (0, _("until it is revoked")),
    )

    name = forms.CharField(
        label=_("Name"),
        help_text=_("The audit calls the program so."),
        max_length=100,
        widget=UnfoldAdminTextInputWidget,
    )
    salon = forms.CharField(
        label=_("Salon id"),
        max_length=40,
        required=False,
        widget=UnfoldAdminTextInputWidget,
    )
    scopes = forms.MultipleChoiceField(
        label=_("Scopes"),
        choices=ApiKey.SCOPES,
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
    )
    lifetime = forms.TypedChoiceField(
        label=_("Valid for"),
        choices=LIFETIMES,
        coerce=int,
        initial=365,
        widget=UnfoldAdminSelectWidget,
    )

    class Meta:
        model = ApiKey
        fields = ("name", "salon", "scopes")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Say to those who may that a key can be good for all salons."""
        super().__init__(*args, **kwargs)
        if api_keys.may_manage(self.by, None):
            self.fields["salon"].help_text = ApiKey._meta.get_field("salon").help_text

    def clean_name(self) -> str:
        """Take names only that can be told apart in the audit."""
        name: str = self.cleaned_data["name"]
        if not api_keys.NAME.fullmatch(name):
            raise ValidationError(
                _("A name has letters, digits, spaces and . @ + - _ only.")
            )
        return name

    def clean_salon(self) -> Salon | None:
        """Return the salon; one that is not theirs looks like one that is not there."""
        typed = self.cleaned_data["salon"].strip()
        if not typed:
            if api_keys.may_manage(self.by, None):
                return None
            raise ValidationError(_("Enter the id of your salon."))
        try:
            return salons.find(
                typed, Salon.objects.for_user(self.by, Action.MANAGE_KEYS)
            )
        except Salon.DoesNotExist:
            raise ValidationError(_("There is no such salon.")) from None


class GoodFilter(admin.SimpleListFilter):
    """Whether a key still opens anything."""

    title = _("state")
    parameter_name = "good"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, Any]]:
        """Return both."""
        return [("yes", _("valid")), ("no", _("expired or revoked"))]

    def queryset(
        self, request: HttpRequest, queryset: QuerySet[ApiKey]
    ) -> QuerySet[ApiKey]:
        """Return the keys of the chosen state."""
        over = Q(revoked_at__isnull=False) | Q(expires_at__lte=now())
        if self.value() == "no":
            return queryset.filter(over)
        return queryset.exclude(over) if self.value() == "yes" else queryset


@admin.register(ApiKey)
class ApiKeyAdmin(OwnRowsAdmin):
    """Keys of one's own salons; support's are the service keys, too."""

    view_action = Action.MANAGE_KEYS
    list_display = [
        "name",
        "salon_or_all",
        "beginning",
        "what_for",
        "state",
        "used",
        "maker",
    ]
    list_filter = [GoodFilter]
    list_select_related = ["salon"]
    allowed_lookups = frozenset({"salon", "salon__id", "salon__id__exact"})
    search_fields = ["name", "prefix", "salon__title", "=salon__salon_id"]
    search_help_text = _("Name, first letters, salon id or title")
    ordering = ["-id"]
    actions = ["revoke"]

    @admin.display(description=_("salon"), ordering="salon__title")
    def salon_or_all(self, key: ApiKey) -> str:
        """The salon; a service key is good for all of them."""
        return str(key.salon) if key.salon else str(_("all salons"))

    @admin.display(description=_("begins with"))
    def beginning(self, key: ApiKey) -> str:
        """What of the key may be seen, so that one can be told from another."""
        return f"{api_keys.BEGINNING}{key.prefix}_…"

    @admin.display(description=_("scopes"))
    def what_for(self, key: ApiKey) -> str:
        """What the key may do."""
        return "; ".join(words.scope(scope) for scope in key.scopes)

    @admin.display(description=_("state"))
    def state(self, key: ApiKey) -> str:
        """Until when it is good, or that it is not any more."""
        if key.revoked_at is not None:
            return _("revoked {time}").format(time=cells.absolute(key.revoked_at))
        if key.expires_at is None:
            return str(_("valid until it is revoked"))
        sentence = _("expired {time}") if key.expires_at <= now() else _("until {time}")
        return sentence.format(time=cells.absolute(key.expires_at))

    @admin.display(description=_("last used"), ordering="last_used_at")
    def used(self, key: ApiKey) -> str:
        """When a program last came with it."""
        return cells.time(key.last_used_at) if key.last_used_at else cells.NOTHING

    @admin.display(description=_("created by"))
    def maker(self, key: ApiKey) -> str:
        """Who made it."""
        return words.actor(key.created_by)

    @admin.action(description=_("Revoke the chosen keys"))
    def revoke(self, request: HttpRequest, queryset: QuerySet[ApiKey]) -> None:
        """End keys, from their next request on."""
        ended = sum(api_keys.revoke(actor(request), key) for key in queryset)
        self.message_user(
            request,
            _("Keys that are revoked now: {n}").format(n=ended),
            messages.SUCCESS if ended else messages.INFO,
        )

    # --- making one -------------------------------------------------------------------

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        """Offer one way to make a key: the page that follows shows it, and nothing else."""
        context = {
            "show_save_and_add_another": False,
            "show_save_and_continue": False,
            **(extra_context or {}),
        }
        return super().changeform_view(request, object_id, form_url, context)

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Say whether whoever asks may make keys for any salon."""
        return Action.MANAGE_KEYS in may_somewhere(request)

    def get_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        """Return what is asked of a new key, or shown of one."""
        if obj is None:
            return ["name", "salon", "scopes", "lifetime"]
        return list(self.list_display)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        """Return all: a key that should be another is revoked, and another is made."""
        return [] if obj is None else list(self.list_display)

    def get_form(
        self,
        request: HttpRequest,
        obj: Any = None,
        change: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Return the form of a new key, and tell it who asks."""
        if obj is not None:
            return super().get_form(request, obj, change, **kwargs)
        return type("Form", (ApiKeyForm,), {"by": person(request)})

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """Spare those who have one salon to write its id."""
        if is_support(request):
            return {}
        mine = Salon.objects.for_user(request.user, Action.MANAGE_KEYS)
        ids = list(mine.values_list("salon_id", flat=True)[:2])
        return {"salon": ids[0]} if len(ids) == 1 else {}

    def save_model(
        self, request: HttpRequest, obj: Any, form: Any, change: bool
    ) -> None:
        """Make the key, and keep it for the one page that shows it."""
        days = form.cleaned_data["lifetime"]
        key, text = api_keys.create_by(
            person(request),
            form.cleaned_data["salon"],
            form.cleaned_data["name"],
            form.cleaned_data["scopes"],
            timedelta(days=days) if days else None,
        )
        obj.pk, obj._state.adding = key.pk, False
        request._api_key = text  # type: ignore[attr-defined]

    def response_add(
        self, request: HttpRequest, obj: Any, post_url_continue: str | None = None
    ) -> HttpResponse:
        """Show the key. It goes through no cookie and no message: they are kept."""
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": _("A new key"),
            "subtitle": obj.name,
            "key": request._api_key,  # type: ignore[attr-defined]
            "page": reverse("admin:whatsapp_apikey_changelist"),
        }
        response = TemplateResponse(request, "admin/whatsapp/key.html", context)
        response.headers["Cache-Control"] = "no-store"
        return response
