"""What the page of a salon asks for."""

from typing import Any

from django import forms
from django.conf import settings
from django.core.exceptions import ValidationError
from django.utils.translation import gettext_lazy as _
from unfold.widgets import (
    UnfoldAdminBigIntegerFieldWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextInputWidget,
)

from whatsapp.admin.base import SalonModelForm
from whatsapp.errors import WhatsAppError
from whatsapp.models import Salon
from whatsapp.phones import MAX_TYPED_LENGTH, normalize_phone


class SalonForm(SalonModelForm):
    """What people may say of a salon."""

    salon_id = forms.IntegerField(
        label=_("Salon id"),
        help_text=_("The marketplace's number of the salon."),
        min_value=1,
        max_value=2**63 - 1,
        widget=UnfoldAdminBigIntegerFieldWidget,
    )
    expected_phone = forms.CharField(
        label=_("Expected phone"),
        help_text=_("If set, the salon is told when another phone is linked."),
        max_length=MAX_TYPED_LENGTH,
        required=False,
        widget=UnfoldAdminTextInputWidget,
    )

    class Meta:
        model = Salon
        fields = ("salon_id", "title", "expected_phone", "shared_phone_allowed")

    def clean_expected_phone(self) -> str:
        """Return the digits of what was typed."""
        typed: str = self.cleaned_data["expected_phone"]
        if not typed:
            return ""
        try:
            return normalize_phone(typed, settings.WHATSAPP_DEFAULT_REGION)
        except WhatsAppError as error:
            raise ValidationError(error.message) from None


class ResetForm(forms.Form):
    """Asks for the salon id, so that nobody resets a salon by a slip of the finger."""

    typed = forms.CharField(
        label=_("Salon id"), max_length=40, widget=UnfoldAdminTextInputWidget
    )

    def __init__(self, salon: Salon, data: Any = None) -> None:
        """Remember which salon it is about."""
        super().__init__(data)
        self._salon = salon
        self.fields["typed"].widget.attrs |= {"autocomplete": "off", "autofocus": True}

    def clean_typed(self) -> str:
        """Compare with the salon's own, in both of its forms."""
        typed: str = self.cleaned_data["typed"].strip()
        if typed not in (str(self._salon.salon_id), self._salon.session_id):
            raise ValidationError(
                _("This is not the id of this salon. Nothing was reset.")
            )
        return typed


class LinkForm(forms.Form):
    """Asks how long a link to the linking page is to work."""

    LIFETIMES = (
        (3600, _("1 hour")),
        (86_400, _("1 day")),
        (604_800, _("7 days")),
    )

    lifetime = forms.TypedChoiceField(
        label=_("Valid for"),
        choices=LIFETIMES,
        coerce=int,
        widget=UnfoldAdminSelectWidget,
    )
