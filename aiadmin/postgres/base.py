"""Starts or finds the embedded PostgreSQL when the first connection is made.

So a command that needs no database starts none, and none needs to be told where
it is.
"""

from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db.backends.postgresql import base


class DatabaseWrapper(base.DatabaseWrapper):
    """Django's own wrapper, with an address that is found out late."""

    def get_connection_params(self) -> dict[str, Any]:
        """Return psycopg's arguments; the cluster runs when this returns."""
        embedded = settings.EMBEDDED_DATABASE
        if embedded is None:
            raise ImproperlyConfigured("This backend is for the embedded database.")
        address = embedded.connect()
        # All threads share this dictionary, and `dbshell` reads it too.
        self.settings_dict.update(
            HOST=address.host,
            PORT=str(address.port),
            USER=address.user,
            PASSWORD=address.password,
        )
        params: dict[str, Any] = super().get_connection_params()
        return params
