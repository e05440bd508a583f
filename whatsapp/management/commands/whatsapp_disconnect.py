"""`whatsapp_disconnect <salon>`: stop a session and keep its link."""

from typing import Any

from whatsapp.management.salon_command import ACTOR, SalonCommand
from whatsapp.services import sessions


class Command(SalonCommand):
    """Wishes a session to stop; its gateway closes it within seconds."""

    help = "Stop a salon's session; the link is kept."

    def handle(self, *_args: Any, salon: str, **_options: Any) -> None:
        """Wish it."""
        found = self.find(salon)
        sessions.disconnect(found, ACTOR)
        self.stdout.write(f"{found.session_id} is to stop; its link is kept.")
