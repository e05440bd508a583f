"""Who works for which salon, and the users themselves."""

from typing import TYPE_CHECKING, Any

from django.contrib import admin
from django.contrib.auth.admin import UserAdmin as DjangoUserAdmin
from django.contrib.auth.models import Group, User
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import transaction
from django.db.models import QuerySet
from django.forms import ModelChoiceField
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext_lazy as _
from unfold.forms import AdminPasswordChangeForm, UserChangeForm, UserCreationForm

from whatsapp.admin import cells
from whatsapp.admin.base import MembershipModelForm, ModelAdmin, OwnRowsAdmin
from whatsapp.admin_site import may_somewhere, person
from whatsapp.models import Membership, Salon
from whatsapp.roles import Action, Role
from whatsapp.services import staff, words

if TYPE_CHECKING:
    from django.db.models.fields.related import ForeignObject


class MembershipForm(MembershipModelForm):
    """Lets nobody give a role that he may not give."""

    by: User
    """Who asks; set by the admin."""

    class Meta:
        model = Membership
        fields = ("user", "salon", "role")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Offer support to those only who may give it."""
        super().__init__(*args, **kwargs)
        if "role" in self.fields:
            grants_support = bool(staff.grantable(self.by, None))
            self.fields["role"].choices = [  # type: ignore[attr-defined]
                choice
                for choice in Membership.ROLES
                if grants_support or choice[0] != Role.SUPPORT
            ]

    def clean(self) -> dict[str, Any]:
        """Say in the form what the service would refuse."""
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        salon = cleaned.get("salon", self.instance.salon)
        role = cleaned.get("role")
        # What does not fit together at all, the table says better, of a new one.
        fits = (role == Role.SUPPORT) == (salon is None)
        if (
            role
            and (fits or self.instance.pk)
            and role not in staff.grantable(self.by, salon)
        ):
            raise ValidationError(_("You may not give this role."))
        return cleaned


@admin.register(Membership)
class MembershipAdmin(OwnRowsAdmin):
    """Who works for which salon."""

    view_action = Action.MANAGE_STAFF
    form = MembershipForm
    list_display = ["user", "salon_or_all", "role"]
    list_filter = ["role"]
    allowed_lookups = frozenset({"salon", "salon__id", "salon__id__exact"})
    search_fields = ["user__username", "salon__title", "=salon__salon_id"]
    search_help_text = _("User, salon id or title")
    autocomplete_fields = ["user", "salon"]
    list_select_related = ["user", "salon"]
    ordering = ["user__username", "pk"]
    actions = None

    @admin.display(description=_("salon"), ordering="salon__title")
    def salon_or_all(self, membership: Membership) -> str:
        """The salon; support has all of them."""
        return str(membership.salon) if membership.salon else str(_("all salons"))

    def get_form(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Tell the form who asks."""
        form = super().get_form(request, *args, **kwargs)
        form.by = person(request)  # type: ignore[attr-defined]  # a class of its own
        return form

    def formfield_for_foreignkey(
        self, db_field: "ForeignObject[Any, Any]", request: HttpRequest, **kwargs: Any
    ) -> "ModelChoiceField[Any] | None":
        """Take only salons whose staff one may manage: others do not exist."""
        if db_field.name == "salon":
            kwargs["queryset"] = Salon.objects.for_user(
                request.user, Action.MANAGE_STAFF
            )
        return super().formfield_for_foreignkey(db_field, request, **kwargs)  # type: ignore[arg-type]

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """Take from the address what can be chosen: a widget breaks on anything else."""
        given = super().get_changeform_initial_data(request)
        return {
            name: value
            for name, value in given.items()
            if name == "role" or (str(value).isascii() and str(value).isdigit())
        }

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[str]:
        """Return who and where: another person at another salon is another grant."""
        return ["user", "salon"] if obj is not None else []

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Say whether whoever asks may give roles."""
        return Action.MANAGE_STAFF in may_somewhere(request)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Say whether whoever asks may change or take this role."""
        if obj is None:
            return self.has_add_permission(request)
        return obj.role in staff.grantable(person(request), obj.salon)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Say whether whoever asks may take this role."""
        return self.has_change_permission(request, obj)

    def save_model(
        self, request: HttpRequest, obj: Any, form: Any, change: bool
    ) -> None:
        """Give or change a role."""
        if change:
            staff.change(person(request), obj, obj.role)
        else:
            obj.pk = staff.grant(person(request), obj.user, obj.salon, obj.role).pk

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        """Take a role away."""
        staff.revoke(person(request), obj)


class OwnUserChangeForm(UserChangeForm):  # type: ignore[misc]  # unfold is untyped
    """Lets nobody lock himself out."""

    by: User
    """Who asks; set by the admin."""

    def clean(self) -> dict[str, Any]:
        """Refuse to take one's own rights."""
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        loses = [
            name
            for name in ("is_active", "is_superuser")
            if not cleaned.get(name, True)
        ]
        if self.instance.pk == self.by.pk and loses:
            raise ValidationError(_("You cannot take your own rights away."))
        return cleaned


# Groups and permissions of Django's say nothing here: roles do.
admin.site.unregister(Group)
admin.site.unregister(User)

if TYPE_CHECKING:
    _UserAdmin = DjangoUserAdmin[User]
else:

    class _UserAdmin(DjangoUserAdmin, ModelAdmin):
        """Django's users in the looks of the rest."""


@admin.register(User)
class UserAdmin(_UserAdmin):
    """Users; superusers make them, and close their accounts instead of deleting them."""

    form = OwnUserChangeForm
    add_form = UserCreationForm
    change_password_form = AdminPasswordChangeForm
    list_display = ["username", "full_name", "roles", "is_active", "is_superuser"]
    list_filter = ["is_active", "is_superuser"]
    search_fields = ["username", "first_name", "last_name", "email"]
    readonly_fields = ["last_login", "date_joined"]
    fieldsets = (
        (None, {"fields": ("username", "password")}),
        (_("Person"), {"fields": ("first_name", "last_name", "email")}),
        (_("Rights"), {"fields": ("is_active", "is_superuser")}),
        (_("Dates"), {"fields": ("last_login", "date_joined")}),
    )
    filter_horizontal = ()
    actions = None

    @admin.display(description=_("name"))
    def full_name(self, user: User) -> str:
        """First and last name."""
        return user.get_full_name() or cells.NOTHING

    @admin.display(description=_("roles"))
    def roles(self, user: User) -> str:
        """What the user is, and how often."""
        held = [membership.role for membership in user.salon_memberships.all()]
        counts = {role: held.count(role) for role in dict(Membership.ROLES)}
        return (
            ", ".join(
                words.role(role) + (f" × {count}" if count > 1 else "")
                for role, count in counts.items()
                if count
            )
            or cells.NOTHING
        )

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        """Return the users, with their roles."""
        return super().get_queryset(request).prefetch_related("salon_memberships")

    def get_form(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        """Tell the form who asks."""
        form = super().get_form(request, *args, **kwargs)
        form.by = person(request)  # type: ignore[attr-defined]
        return form

    def has_autocomplete_permission(self, request: HttpRequest) -> bool:
        """Users are offered to those who give them roles."""
        return Action.MANAGE_STAFF in may_somewhere(request)

    def has_module_permission(self, request: HttpRequest) -> bool:
        """Users are superusers' business."""
        return person(request).is_superuser

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Users are superusers' business."""
        return person(request).is_superuser

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Users are superusers' business."""
        return person(request).is_superuser

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Users are superusers' business."""
        return person(request).is_superuser

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody deletes a user: the audit goes on naming him."""
        return False

    def save_model(
        self, request: HttpRequest, obj: Any, form: Any, change: bool
    ) -> None:
        """Save a user, and record what was changed."""
        with transaction.atomic():
            super().save_model(request, obj, form, change)
            if not change:
                staff.record_user(person(request), obj, "user_created")
            elif form.changed_data:
                staff.record_user(
                    person(request), obj, "user_edited", form.changed_data
                )

    def history_view(
        self,
        request: HttpRequest,
        object_id: str,
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Ask who it is before looking whether there is such a user."""
        if not self.has_view_permission(request):
            raise PermissionDenied
        return super().history_view(request, object_id, extra_context)

    def user_change_password(
        self,
        request: HttpRequest,
        id: str,  # noqa: A002  (Django's name)
        form_url: str = "",
    ) -> HttpResponse:
        """Set somebody's password, and record that it was set."""
        with transaction.atomic():
            before = self._password(id)
            answer = super().user_change_password(request, id, form_url)
            if self._password(id) != before:
                user = User.objects.get(pk=id)
                staff.record_user(person(request), user, "user_password")
        return answer

    @staticmethod
    def _password(pk: str) -> str | None:
        if not pk.isdigit() or len(pk) > 9:
            return None
        return User.objects.filter(pk=pk).values_list("password", flat=True).first()

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """Leave it to the audit."""

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """Leave it to the audit."""
