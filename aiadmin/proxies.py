"""Who really asks: what a proxy says of its client, believed of trusted proxies only."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, TypeAlias

from django.conf import settings

from whatsapp import addresses
from whatsapp.addresses import Address

UNIX = "unix"
# What anybody can send, and what something behind us might believe. Django reads only
# names with hyphens; others (a log, an error report) may not make that difference.
FORGEABLE = (
    *(b"forwarded", b"x-real-ip", b"x-client-ip", b"x-cluster-client-ip"),
    *(b"true-client-ip", b"cf-connecting-ip", b"x-url-scheme", b"front-end-https"),
)
FORGEABLE_START = b"x-forwarded"
FOR, PROTO = b"x-forwarded-for", b"x-forwarded-proto"
SCHEMES = {"http": ("http", "ws"), "https": ("https", "wss")}

Scope: TypeAlias = dict[str, Any]
# Channels and Django each have types of their own for the two ends.
Application: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class TrustedProxies:
    """The proxies that are believed: networks, and perhaps those on a Unix socket."""

    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    unix: bool = False

    @classmethod
    def read(cls, items: Iterable[str]) -> "TrustedProxies":
        """Read addresses, networks and the word ``unix``.

        Raises:
            ValueError: one of them is neither.
        """
        items = list(items)
        return cls(
            networks=tuple(ip_network(item) for item in items if item != UNIX),
            unix=UNIX in items,
        )

    def __contains__(self, address: Address) -> bool:
        """Say whether whoever has ``address`` is believed."""
        return any(address in network for network in self.networks)

    def __bool__(self) -> bool:
        """Say whether anybody is believed."""
        return self.unix or bool(self.networks)

    def client(self, peer: Address | None, chain: list[str]) -> Address | None:
        """Return who asks: the first from the right that is no proxy of ours.

        Everything left of him he may have written himself. A hop that cannot be read
        ends the walk, too: the nearest one that could be is all that is known.

        Args:
            peer: who is connected to us, and trusted; None: over a Unix socket.
            chain: X-Forwarded-For; each proxy has added who was connected to it.
        """
        known = peer
        for text in reversed(chain):
            hop = addresses.read(text)
            if hop is None:
                break
            known = hop
            if hop not in self:
                break
        return known


class ClientAddress:
    """ASGI middleware: puts the client's own address and scheme into the scope.

    Around everything, so that whatever is behind it finds them where it looks for them
    anyway, and finds no header that a stranger could have written.
    """

    def __init__(self, application: Application) -> None:
        """Keep what is behind it."""
        self._application = application

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Hand the request on as it really is."""
        if scope["type"] in ("http", "websocket"):
            scope = seen(scope, settings.TRUSTED_PROXIES)
        await self._application(scope, receive, send)


def seen(scope: Scope, trusted: TrustedProxies) -> Scope:
    """Return ``scope`` with the real client and scheme, and without what claims them."""
    headers: list[tuple[bytes, bytes]] = scope.get("headers", [])
    result = {**scope, "headers": [each for each in headers if not _claims(each[0])]}
    # Daphne reads it out of a header that proxies hand on (Daphne-Root-Path), and Django
    # writes links with it.
    result["root_path"] = ""
    peer = scope.get("client")
    address = addresses.read(peer[0]) if peer else None
    if not (
        trusted.unix if peer is None else address is not None and address in trusted
    ):
        return result
    client = trusted.client(address, _values(headers, FOR))
    if client is not None and client != address:
        # A proxy does not say from which port its client came.
        result["client"] = [str(client), 0]
    schemes = {value.lower() for value in _values(headers, PROTO)}
    if len(schemes) == 1 and schemes <= SCHEMES.keys():
        result["scheme"] = SCHEMES[schemes.pop()][scope["type"] == "websocket"]
    return result


def _claims(name: bytes) -> bool:
    name = name.lower().replace(b"_", b"-")
    return name.startswith(FORGEABLE_START) or name in FORGEABLE


def _values(headers: list[tuple[bytes, bytes]], name: bytes) -> list[str]:
    """Return the values of a header that may come several times, in their order."""
    text = ",".join(value.decode("latin-1") for key, value in headers if key == name)
    return [value.strip() for value in text.split(",") if value.strip()]
