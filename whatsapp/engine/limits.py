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
    # Codes that are made ahead, in all processes together.
    ready_codes: int = 8
    restart_delay: float = 0.2
    restart_delay_max: float = 10
    # After this long a life counts as healthy, and the delay starts again.
    healthy_after: float = 60
    # Each Node.js is asked so often, and killed when it has not answered for so long.
    ping_interval: float = 2
    hang_timeout: float = 10
    # A Node.js that has not heard of us for so long ends itself: by the time that
    # somebody else may have our sessions (12 s), its sockets must be gone.
    lease: float = 8
    # Above this much RSS a Node.js is ended in peace and started again, but not more
    # often than that.
    memory_mb: int = 3072
    recycle_interval: float = 600
    # Who said something so shortly before a death is suspected of it.
    suspicion: float = 1
    # Deaths of which nobody else was suspected, until a session is convicted.
    strikes: int = 3
    # After so long without another death a suspect is one no more.
    probation: float = 600

    @property
    def heap_mb(self) -> int:
        """V8's own bound, which is death: the soft one must come first."""
        return self.memory_mb * 3 // 4


@dataclass(frozen=True, slots=True)
class Stats:
    """One Node.js process, as its last answer to a ping had it."""

    # Counted from 1; 0 is the ward.
    process: int
    # None while it is down; then the figures are those of its former life.
    pid: int | None
    # Sockets, by Node.js's own count.
    sessions: int
    # Node.js's memory, bytes.
    rss: int
    heap: int
    codes_ready: int
    # Of its event loop, between the last two pings.
    lag_mean_ms: float
    lag_max_ms: float
    restarts: int
    # When the ping was sent, by the clock of the event loop; None before the first.
    asked_at: float | None
