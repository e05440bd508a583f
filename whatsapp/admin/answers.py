"""What the page of a salon says of each outcome of what was done there."""

from django.contrib import messages
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from whatsapp.services.sessions import Disconnected, Reconnected, Restored

ANSWERS: dict[str, tuple[int, Promise]] = {
    f"reconnect {Reconnected.STARTED}": (
        messages.SUCCESS,
        _("The connection is being opened anew; the state here follows by itself."),
    ),
    f"reconnect {Reconnected.NOT_LINKED}": (
        messages.WARNING,
        _("No phone is linked, so there is nothing to connect. Link one first."),
    ),
    f"reconnect {Reconnected.BANNED}": (
        messages.WARNING,
        _(
            "WhatsApp has restricted the account, and trying again makes it worse. Look "
            "into WhatsApp on the phone first; when it works there, connect from here "
            "by QR."
        ),
    ),
    f"reconnect {Reconnected.LINKING}": (
        messages.WARNING,
        _("A phone is just being linked. Wait until that is over."),
    ),
    f"disconnect {Disconnected.STOPPED}": (
        messages.SUCCESS,
        _("The connection is stopped; the link is kept."),
    ),
    f"disconnect {Disconnected.STOPPING}": (
        messages.SUCCESS,
        _("The connection is being stopped; the link is kept."),
    ),
    f"disconnect {Disconnected.ALREADY}": (
        messages.INFO,
        _("The connection was stopped before."),
    ),
    f"disconnect {Disconnected.NOT_LINKED}": (
        messages.INFO,
        _("No phone is linked, so there is nothing to stop."),
    ),
    f"restore {Restored.STARTED}": (
        messages.SUCCESS,
        _("The archived link is back and is being connected."),
    ),
    f"restore {Restored.LINKED}": (
        messages.ERROR,
        _(
            "A phone is linked now. Nothing was restored: reset the present link first, "
            "if the archived one is to take its place."
        ),
    ),
    f"restore {Restored.GONE}": (
        messages.ERROR,
        _("This archived link is not there any more."),
    ),
    f"restore {Restored.UNREADABLE}": (
        messages.ERROR,
        _(
            "This archived link cannot be read: it is encrypted with a key that our "
            "service does not have."
        ),
    ),
    "reset done": (
        messages.SUCCESS,
        _("The link was reset. A phone can be linked anew."),
    ),
}
