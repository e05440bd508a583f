"""What the staff reads of reasons, actions and people: sentences for the words in rows."""

from collections.abc import Callable
from typing import Any

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from whatsapp.errors import ErrorCode, message_of
from whatsapp.models import ApiKey, Membership, PairingAttempt, Salon, WhatsAppSession

_REASONS: dict[str, Promise] = {
    "gateway_lost": _("the gateway that ran it is gone"),
    "silent": _("WhatsApp has not been heard for a while"),
    # WhatsApp's numbers, and above 1000 ours for ends that have none.
    "401": _("WhatsApp does not know this device any more (401)"),
    "402": _("WhatsApp has restricted the account for a time (402)"),
    "403": _("WhatsApp has restricted the account (403)"),
    "405": _("WhatsApp asks for a newer version of our service (405)"),
    "408": _("the connection was lost (408)"),
    "409": _("WhatsApp asks for a newer version of our service (409)"),
    "411": _("the link does not fit the account any more (411)"),
    "428": _("WhatsApp closed the connection (428)"),
    "440": _("another program uses the same link (440)"),
    "500": _("WhatsApp found something wrong with the session (500)"),
    "503": _("WhatsApp was not available (503)"),
    "515": _("WhatsApp asked for a new connection (515)"),
    "1000": _("the connection ended without a reason"),
    "1001": _("WhatsApp refused the connection"),
    "1002": _("WhatsApp could not be reached"),
    "1003": _("WhatsApp was silent for too long"),
    "1004": _("an old QR was scanned"),
    "1005": _("nobody scanned the QR in time"),
    "1006": _("an unreadable message broke the connection"),
    "1007": _("another gateway took over"),
    "1008": _("our connection program was restarted"),
    "1009": _("our connection program ends again and again with this session"),
    "1010": _("our database was away for too long"),
    "1011": _("our service lacks the key to the stored link"),
}

_ARCHIVED: dict[str, Promise] = {
    "replaced": _("another phone was linked, or the same one anew"),
    "logged_out": _("the phone removed this device from its linked devices"),
    "duplicate": _("the previous service had a newer link of the same salon"),
    "restored": _("a backup was restored in its place"),
}

_ACTIONS: dict[str, Promise] = {
    "backed_up": _("Made a backup of the link"),
    "backup_restored": _("Restored the link from a backup"),
    "bulk_disconnect": _("Stopped several salons at once"),
    "bulk_reconnect": _("Connected several salons anew at once"),
    "connect": _("Asked to connect"),
    "decrypted": _("Stored what was encrypted plain again"),
    "disconnect": _("Stopped the connection"),
    "encrypted": _("Encrypted what is stored"),
    "key_created": _("Made an API key"),
    "key_revoked": _("Revoked an API key"),
    "link_issued": _("Issued a link to the linking page"),
    "link_refused": _("WhatsApp refused the new link; the former one is back"),
    "linked": _("A phone was linked"),
    "logged_out": _("The phone unlinked itself; the link is in the archive"),
    "phone_mismatch_cleanup": _("Another phone than before, or a half-finished link"),
    "reconnect": _("Connected anew"),
    "reset": _("Reset the link"),
    "restored": _("Restored an archived link"),
    "salon_created": _("Added the salon"),
    "salon_edited": _("Edited the salon"),
    "staff_changed": _("Changed a role"),
    "staff_granted": _("Gave a role"),
    "staff_revoked": _("Took a role away"),
    "taken_over": _("Taken over from the previous service"),
    "user_created": _("Added a user"),
    "user_edited": _("Edited a user"),
    "user_password": _("Set a password"),
}
"""Everything that the audit records. A test holds it against the code."""

_ACTORS: dict[str, Promise] = {
    "page": _("the linking page"),
    "command": _("an operator's command"),
    "operator": _("an operator's command"),
    "system": _("the service"),
}

_OUTCOMES: dict[str, Promise] = {
    "started": _("started"),
    "left_open": _("already connected, left alone"),
    "under_way": _("is being connected already"),
    "not_linked": _("no phone is linked"),
    "banned": _(
        "WhatsApp has restricted the account: look into WhatsApp on the phone first"
    ),
    "linking": _("a phone is just being linked: wait until that is over"),
    "stopped": _("stopped"),
    "stopping": _("stopping"),
    "already": _("was stopped before"),
    "not_allowed": _("you may not do this here"),
    "failed": _("did not work; we have been told"),
}


def reason(code: str) -> str:
    """Return why, for a ``reason`` or ``error`` of a row; empty for none."""
    if not code:
        return ""
    if code in _REASONS:
        return str(_REASONS[code])
    if code in ErrorCode.__members__:
        return message_of(code)
    return _("reason {code}").format(code=code)


def archived(code: str) -> str:
    """Return why a link is in the archive."""
    return str(_ARCHIVED.get(code, code))


def action(name: str) -> str:
    """Return what was done, for an ``action`` of the audit."""
    return str(_ACTIONS.get(name, name))


def actions() -> list[tuple[str, str]]:
    """Return every action of the audit with its words."""
    return [(name, str(words)) for name, words in _ACTIONS.items()]


def actor(name: str) -> str:
    """Return who, for an ``actor`` of the audit."""
    if name.startswith("user:"):
        return name.removeprefix("user:")
    if name.startswith("key:"):
        return _("program {name}").format(name=name.removeprefix("key:"))
    return str(_ACTORS.get(name, name))


def outcome(name: str) -> str:
    """Return what became of a wish to connect or to stop."""
    return str(_OUTCOMES.get(name, name))


def status(value: str) -> str:
    """Return a status in words."""
    return str(dict(WhatsAppSession.Status.choices).get(value, value))


def stage(value: str) -> str:
    """Return an attempt's stage in words."""
    return str(dict(PairingAttempt.Stage.choices).get(value, value))


def role(value: str) -> str:
    """Return a role in words."""
    return str(dict(Membership.ROLES).get(value, value))


def scope(value: str) -> str:
    """Return what a key is for, in words."""
    return str(dict(ApiKey.SCOPES).get(value, value))


def duration(seconds: float) -> str:
    """Return a time span, in the largest unit of which there is more than one."""
    if seconds < 120:
        return _("{n} s").format(n=int(seconds))
    if seconds < 7200:
        return _("{n} min").format(n=int(seconds // 60))
    if seconds < 172_800:
        return _("{n} h").format(n=int(seconds // 3600))
    return _("{n} d").format(n=int(seconds // 86_400))


def detail(values: dict[str, Any]) -> str:
    """Return the details of an audit event, as far as people need them."""
    known = (_DETAILS[name](values) for name in _DETAILS if values.get(name))
    return "; ".join(part for part in known if part)


def _field(name: str) -> str:
    names = {field.name: field for field in Salon._meta.concrete_fields}
    return str(names[name].verbose_name) if name in names else name


def _phones(values: dict[str, Any]) -> str:
    return f"{values.get('old_phone') or '?'} → {values.get('new_phone') or '?'}"


def _role(values: dict[str, Any]) -> str:
    roles = [values.get("before", ""), values["role"]]
    return " → ".join(role(value) for value in roles if value)


_DETAILS: dict[str, Callable[[dict[str, Any]], str]] = {
    "outcome": lambda values: outcome(values["outcome"]),
    "reason": lambda values: reason(str(values["reason"])),
    "phone": lambda values: str(values["phone"]),
    "new_phone": _phones,
    "user": lambda values: str(values["user"]),
    "program": lambda values: str(values["program"]),
    "scopes": lambda values: ", ".join(scope(name) for name in values["scopes"]),
    "role": _role,
    "fields": lambda values: ", ".join(_field(name) for name in values["fields"]),
    "lifetime": lambda values: _("valid for {time}").format(
        time=duration(values["lifetime"])
    ),
    "salons": lambda values: _("salons: {n}").format(n=values["salons"]),
}
"""What of an event's details is for people; the rest is for programs."""
