"""The channel layer of a service that is one process."""

import time
from typing import Any

from channels.layers import InMemoryChannelLayer

CLEAN_SECONDS = 1.0


class OneProcessLayer(InMemoryChannelLayer):
    """Channels' own layer, which looks for expired messages once a second at most.

    It does so before every message otherwise, in all channels: with thousands of pages
    that costs more than all the rest.
    """

    def __init__(self, **config: Any) -> None:
        """Take what Channels' layer takes."""
        super().__init__(**config)
        self._cleaned_at = 0.0

    def _clean_expired(self) -> None:
        now = time.monotonic()
        if now - self._cleaned_at >= CLEAN_SECONDS:
            self._cleaned_at = now
            super()._clean_expired()  # type: ignore[misc]
