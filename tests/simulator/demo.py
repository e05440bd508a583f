"""`make demo`: the service on a simulated WhatsApp, and a phone to play with.

It has a database of its own (var/demo), so it never touches real sessions.
"""

import argparse
import io
import os
import re
import sys

from django.core.exceptions import ImproperlyConfigured
from django.core.management import CommandError, call_command

from aiadmin.embedded import EmbeddedError, node_binary
from tests.simulator import Simulator

PAGE = re.compile(r"(http://\S+?)/marketplace/connect#token=(\S+)")


class WithPhone(io.TextIOBase):
    """The terminal, which shows the phone's page after the salon's."""

    def __init__(self, control_url: str) -> None:
        self._control_url = control_url

    def write(self, text: str) -> int:
        sys.stdout.write(text)
        if page := PAGE.search(text):
            socket = page[1].replace("http", "ws", 1) + "/ws/marketplace/"
            sys.stdout.write(
                f"The phone: {self._control_url}/#gateway={socket}&token={page[2]}\n"
            )
        return len(text)

    def flush(self) -> None:
        sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    options = parser.parse_args()
    # The simulator ends when we do, however we do: it reads our end of a pipe.
    with Simulator.start(node=node_binary()) as simulator:
        os.environ |= {
            "DJANGO_SETTINGS_MODULE": "aiadmin.settings",
            "ENV_FILE": os.devnull,
            "DATABASE_URL": "",
            "REDIS_URL": "",
            "VAR_DIR": "var/demo",
            "WHATSAPP_WS_URL": simulator.ws_url,
            "MARKETPLACE_ALLOWED_ORIGINS": simulator.control_url,
        }
        import django

        try:
            django.setup()
            terminal = WithPhone(simulator.control_url)
            call_command("serve", host=options.host, port=options.port, stdout=terminal)
        except (CommandError, EmbeddedError, ImproperlyConfigured) as error:
            sys.exit(f"Cannot start: {error}")


if __name__ == "__main__":
    main()
