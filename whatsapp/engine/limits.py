"""What the engine allows itself, and how it is doing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Clocks (seconds) and sizes."""

    # From open to the first Qr, Opened or Closed.
    connect_timeout: float = 20
    # From request_code to its answer.
    code_timeout: float = 15
    # A Node.js that has not closed a socket by then is stuck, and is replaced.
    close_timeout: float = 10
    store_timeout: float = 15
    # Baileys' own: TCP, upgrade and handshake; queries; ping.
    socket_timeout: float = 12
    query_timeout: float = 20
    keep_alive: float = 30
    alive_interval: float = 10
    # How long each QR lives; None for Baileys' own 60 s and then five times 20 s.
    qr_lifetime: float | None = None
    # How many start at a time (baileys.md, A: without a limit 200 pairings stall for
    # seconds), and how long a start counts as one.
    links: int = 4
    codes: int = 4
    first_logins: int = 4
    logins: int = 8
    # Long enough for a busy machine: slots that come back while their starts still
    # compute let all the others in on top, and then nobody gets through in time.
    slot_hold: float = 10
    pooled_codes: int = 8
    pooled_creds: int = 8
    heap_mb: int = 4096
    restart_delay: float = 0.2
    restart_delay_max: float = 10
    # After this long a life counts as healthy, and the delay starts again.
    healthy_after: float = 60


@dataclass(frozen=True, slots=True)
class Stats:
    sessions: int
    # Node.js's memory, bytes.
    rss: int
    heap: int
    codes_ready: int
    # Of its event loop, since the last call.
    lag_mean_ms: float
    lag_max_ms: float
    # Waiting for their turn to start.
    waiting: int
    restarts: int
