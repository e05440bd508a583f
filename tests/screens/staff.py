"""The states of the staff's admin."""

from tests.screens.studio import State

STATES: list[State] = []
