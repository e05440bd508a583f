"""Who may do what to a salon: one table, read by everything that judges (pure)."""

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
    Role.OWNER: frozenset(_STAFF | {Action.RESET, Action.RESTORE}),
    Role.SUPPORT: frozenset(Action),
}


def roles_that_may(action: Action) -> list[Role]:
    """Return the roles whose holders may do ``action``."""
    return [role for role, actions in MAY.items() if action in actions]
