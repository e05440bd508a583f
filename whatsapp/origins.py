"""Which pages may talk to us: the decision on a browser's Origin (pure)."""

import re
from collections.abc import Iterable
from functools import lru_cache
from urllib.parse import urlsplit

DEFAULT_PORTS = {"http": 80, "https": 443}


def allowed(origin: bytes | None, host: str | None, patterns: Iterable[str]) -> bool:
    """Return whether a page from ``origin`` may open a WebSocket here.

    Args:
        origin: the Origin header; None if there is none. Browsers always send it,
            so whoever does not is a program, and must show a token like all others.
        host: the Host header if it names us, for pages of our own.
        patterns: origins such as ``https://salon.example:8443``, in which ``*``
            stands for letters and digits, never for a dot.
    """
    if origin is None:
        return True
    name = of_url(origin.decode("latin-1"), bare=True)
    if name is None:
        return False
    return matches(name, patterns) or (host is not None and _is_own(name, host))


def is_own(origin: bytes | None, host: str | None, *, secure: bool) -> bool:
    """Return whether ``origin`` is a page of our own, and nobody else's.

    For sockets that a cookie opens: the browser sends it whatever page asks.

    Args:
        origin: the Origin header; None if there is none.
        host: the Host header if it names us.
        secure: whether the cookie travels over https only; then so must the page.
    """
    name = None if origin is None else of_url(origin.decode("latin-1"), bare=True)
    if name is None or host is None or (secure and not name.startswith("https:")):
        return False
    return _is_own(name, host)


def matches(origin: str, patterns: Iterable[str]) -> bool:
    """Return whether ``origin`` is one of ``patterns``, from its first letter to its last."""
    return any(_compiled(pattern).fullmatch(origin) for pattern in patterns)


def of_url(url: str, *, bare: bool = False) -> str | None:
    """Return the origin of ``url`` as browsers write it; None if it has none.

    Args:
        url: an http or https address.
        bare: refuse an address with more in it than an origin.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return None
    if parts.scheme not in DEFAULT_PORTS or not parts.hostname:
        return None
    if bare and (parts.path or parts.query or parts.fragment or "@" in parts.netloc):
        return None
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    if port is None or port == DEFAULT_PORTS[parts.scheme]:
        return f"{parts.scheme}://{host}"
    return f"{parts.scheme}://{host}:{port}"


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    parts = pattern.lower().rstrip("/").split("*")
    return re.compile("[a-z0-9]+".join(re.escape(part) for part in parts))


def _is_own(origin: str, host: str) -> bool:
    scheme = origin.partition(":")[0]
    return of_url(f"{scheme}://{host}", bare=True) == origin
