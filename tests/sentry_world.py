"""A Sentry that keeps what it is sent: in this process, and on loopback.

Import the fixture by name into a test module::

    from tests.sentry_world import captured  # noqa: F401
"""

import gzip
import json
import logging
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import sentry_sdk
from sentry_sdk.envelope import Envelope
from sentry_sdk.transport import Transport

from aiadmin import sentry
from aiadmin.logs import Pace

PATIENCE = 60.0


class Captured(Transport):
    """Keeps what would be sent."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.events: list[dict[str, Any]] = []
        self.now = 0.0

    def capture_envelope(self, envelope: Envelope) -> None:
        self.texts.append(envelope.serialize().decode())
        self.events += events_of(self.texts[-1])

    def of(self, operation: str) -> list[dict[str, Any]]:
        """The events of an operation."""
        return [
            event
            for event in self.events
            if event.get("tags", {}).get("operation") == operation
        ]


def events_of(envelope: str) -> list[dict[str, Any]]:
    """Return the events of an envelope: a header, then a header and a body each."""
    found = []
    lines = envelope.splitlines()[1:]
    while lines:
        header = json.loads(lines.pop(0))
        body = json.loads(lines.pop(0))
        assert header["type"] == "event", header
        found.append(body)
    return found


@pytest.fixture
def captured() -> Iterator[Captured]:
    """Sentry as the settings start it, with its clock in the test's hand."""
    transport = Captured()
    handler = sentry.SentryHandler()
    root, ours = logging.getLogger(), logging.getLogger("whatsapp")
    level = ours.level
    ours.setLevel(logging.INFO)
    with sentry_sdk.isolation_scope():
        sentry.init(
            "https://public@sentry.invalid/1",
            environment="tests",
            release="aiadmin@0",
            pace=Pace(clock=lambda: transport.now),
            transport=transport,
        )
        root.addHandler(handler)
        yield transport
        root.removeHandler(handler)
        ours.setLevel(level)
        sentry_sdk.get_client().close()
    sentry_sdk.get_global_scope().set_client(None)


class Sink:
    """A Sentry on loopback. A context manager."""

    def __init__(self) -> None:
        self.envelopes: list[str] = []
        sink = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                encoding = self.headers["Content-Encoding"]
                assert encoding in (None, "gzip"), encoding
                if encoding:
                    body = gzip.decompress(body)
                sink.envelopes.append(body.decode(errors="replace"))
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.dsn = f"http://public@127.0.0.1:{self._server.server_port}/1"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def __enter__(self) -> "Sink":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def events(self) -> list[dict[str, Any]]:
        """What has come until now."""
        return [event for text in list(self.envelopes) for event in events_of(text)]

    def of(self, operation: str) -> list[dict[str, Any]]:
        """The events of an operation."""
        return [
            event
            for event in self.events
            if event.get("tags", {}).get("operation") == operation
        ]

    def wait_for(self, operation: str) -> dict[str, Any]:
        """Return the first event of an operation, once it has come."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if found := self.of(operation):
                return found[0]
            time.sleep(0.02)
        raise AssertionError(f"no {operation} in {self.envelopes}")


logger = logging.getLogger("whatsapp.gateway.test")


def caught(error: Exception) -> Exception:
    """Return the error as it is when it has been raised."""
    try:
        raise error  # noqa: TRY301
    except Exception as raised:  # noqa: BLE001  (whatever it is)
        return raised
