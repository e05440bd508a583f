"""Who may do what to a salon: one table, read by everything that judges (pure)."""

from collections.abc import Iterable
from enum import StrEnum


class Role(StrEnum):
    """What somebody is to a salon; support is it to all of them."""

    VIEWER = "viewer"
    STAFF = "staff"
    OWNER = "owner"
    SUPPORT = "support"


class Action(StrEnum):
    """Something that is done to a salon."""

    VIEW = "view"
    """See the status, the masked phone, the timeline; export them."""
    LINK = "link"
    """See codes and QRs, ask for them: whoever holds one can link his own phone."""
    CONNECT = "connect"
    DISCONNECT = "disconnect"
    ISSUE_LINK = "issue_link"
    """Make the address of the linking page, which opens it to whoever has it."""
    RESET = "reset"
    RESTORE = "restore"
    EDIT = "edit"
    """The salon itself: its title, the expected phone, the shared number."""
    MANAGE_STAFF = "manage_staff"
    MANAGE_KEYS = "manage_keys"
    """Make and revoke keys of the API, by which programs do what people may do."""


_STAFF = {
    Action.VIEW,
    Action.LINK,
    Action.CONNECT,
    Action.DISCONNECT,
    Action.ISSUE_LINK,
}

MAY: dict[Role, frozenset[Action]] = {
    Role.VIEWER: frozenset({Action.VIEW}),
    Role.STAFF: frozenset(_STAFF),
    Role.OWNER: frozenset(_STAFF | {Action.RESET, Action.RESTORE, Action.MANAGE_KEYS}),
    Role.SUPPORT: frozenset(Action),
}


class Scope(StrEnum):
    """What a key of the API is for. None contains another: a key has as many as it needs."""

    READ = "read"
    LINK = "link"
    OPERATE = "operate"


SCOPE_MAY: dict[Scope, frozenset[Action]] = {
    Scope.READ: frozenset({Action.VIEW}),
    Scope.LINK: frozenset({Action.LINK}),
    Scope.OPERATE: frozenset({Action.CONNECT, Action.DISCONNECT, Action.RESET}),
}


def scopes_may(scopes: Iterable[str]) -> frozenset[Action]:
    """Return what a key with these scopes may do to its salons."""
    return frozenset[Action]().union(*(SCOPE_MAY[Scope(scope)] for scope in scopes))


def roles_that_may(action: Action) -> list[Role]:
    """Return the roles whose holders may do ``action``."""
    return [role for role, actions in MAY.items() if action in actions]
