"""The WebSockets: the marketplace's page of a salon, and the pages of the staff's admin.

A handler calls one service and returns: what comes of it is told to all pages of the
salon, by way of the committed row (see :mod:`whatsapp.page`).
"""

AUTH_SECONDS = 5.0
WAITING_PER_ADDRESS = 20
MESSAGE_LIMIT = 64 * 1024
FLOOD_MESSAGES, FLOOD_SECONDS = 30, 10.0
SALONS_PER_LIST = 500

# They read the limits above.
from whatsapp.consumers.marketplace import MarketplaceConsumer  # noqa: E402
from whatsapp.consumers.salon import SalonConsumer  # noqa: E402
from whatsapp.consumers.status import SessionStatusConsumer  # noqa: E402

__all__ = ["MarketplaceConsumer", "SalonConsumer", "SessionStatusConsumer"]
