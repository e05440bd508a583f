"""What all our admin classes have in common: rows of one's own salons, roles, no oracle."""

from typing import TYPE_CHECKING, Any, TypeAlias

from django import forms
from django.contrib.admin import ModelAdmin as DjangoModelAdmin
from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.admin import ModelAdmin as UnfoldModelAdmin

from whatsapp.admin_site import may_somewhere
from whatsapp.models import ApiKey, Membership, Salon
from whatsapp.roles import Action

if TYPE_CHECKING:  # unfold is untyped; its classes are Django's, generic in stubs only
    ModelAdmin: TypeAlias = DjangoModelAdmin[Any]
    MembershipModelForm: TypeAlias = forms.ModelForm[Membership]
    SalonModelForm: TypeAlias = forms.ModelForm[Salon]
    KeyModelForm: TypeAlias = forms.ModelForm[ApiKey]
else:
    ModelAdmin = UnfoldModelAdmin
    MembershipModelForm = SalonModelForm = KeyModelForm = forms.ModelForm


class OwnRowsAdmin(ModelAdmin):
    """Shows the rows of the salons that whoever asks may see, and lets nobody change any.

    Every page, search, filter, history and export starts from :meth:`get_queryset`, so
    a foreign row looks like one that has never been. Django's own permissions are not
    asked: what a role may do is said in roles.py.
    """

    view_action = Action.VIEW
    """What somebody must be allowed to do to a salon to see its rows here."""

    show_full_result_count = False
    list_per_page = 50
    allowed_lookups: frozenset[str] = frozenset()
    """Query parameters besides those of the filters."""

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Return the rows of one's own salons."""
        rows: Any = self.model._default_manager
        found: QuerySet[Any] = rows.for_user(request.user, self.view_action)
        return found.order_by(*self.get_ordering(request))

    def lookup_allowed(
        self, lookup: str, value: Any, request: HttpRequest | None = None
    ) -> bool:
        """Allow the parameters of filters, and no others.

        Django lets anybody filter by any column of the table: with ``phone__startswith``
        a masked phone can be had digit by digit, and a code letter by letter.
        """
        if lookup in self.allowed_lookups:
            return True
        names = [
            entry if isinstance(entry, str) else getattr(entry, "parameter_name", "")
            for entry in self.list_filter
        ]
        return lookup.removesuffix("__exact") in names

    def to_field_allowed(self, request: HttpRequest, to_field: str) -> bool:
        """Let objects be named by their primary key only."""
        return to_field in ("pk", self.opts.pk.attname)

    def has_module_permission(self, request: HttpRequest) -> bool:
        """Say whether the menu names these rows."""
        return self.has_view_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Say whether whoever asks may see such rows; which ones, the query says."""
        if obj is None:
            return self.view_action in may_somewhere(request)
        return self.get_queryset(request).filter(pk=obj.pk).exists()

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Nobody adds one."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody changes one."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody deletes one."""
        return False

    def has_autocomplete_permission(self, request: HttpRequest) -> bool:
        """Say whether these rows are offered in other forms; only those of people do."""
        return False

    # The audit is the record of what people did. Django's own log would be a second,
    # shown to whoever may see the object.

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """Leave it to the audit."""

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """Leave it to the audit."""
