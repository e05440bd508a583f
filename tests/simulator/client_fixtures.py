"""Bare Baileys clients in a process of their own, and the WhatsApp that they talk to.

Import the fixtures by name into a test module, and name them in its ``__all__``.
"""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.simulator import Simulator, find_node

CLIENT = Path(__file__).with_name("client.js")
PATIENCE = 60
PHONE = "79001234567"


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError(f"waited in vain: {what}")


class Client:
    """One Baileys client; its events come in order, and each is looked at once."""

    def __init__(self, clients: Clients, name: str) -> None:
        self.name = name
        self.events: queue.Queue[dict[str, Any]] = queue.Queue()
        self.seen: list[dict[str, Any]] = []
        self._clients = clients

    def do(self, command: str, **params: Any) -> None:
        self._clients.write({"client": self.name, "do": command, **params})

    def connect(self, **params: Any) -> Client:
        self.do("connect", **{"url": self._clients.url, **params})
        return self

    def wait(
        self, event: str, patience: float = PATIENCE, **expected: Any
    ) -> dict[str, Any]:
        deadline = time.monotonic() + patience
        while (left := deadline - time.monotonic()) > 0:
            try:
                found = self.events.get(timeout=left)
            except queue.Empty:
                break
            self.seen.append(found)
            if found["event"] == event and expected.items() <= found.items():
                return found
        raise AssertionError(f"no {event} {expected}; seen: {self.seen[-20:]}")

    def wait_for_all(self, *wanted: dict[str, Any]) -> None:
        """Wait for several events, whichever comes first."""
        missing = list(wanted)
        deadline = time.monotonic() + PATIENCE
        while missing:
            left = deadline - time.monotonic()
            assert left > 0, f"no {missing}; seen: {self.seen[-20:]}"
            with contextlib.suppress(queue.Empty):
                self.seen.append(found := self.events.get(timeout=left))
                missing = [it for it in missing if not it.items() <= found.items()]

    def code(self, phone: str) -> str:
        self.do("code", phone=phone)
        code: str = self.wait("code")["code"]
        return code


class Clients:
    def __init__(self, url: str) -> None:
        self.url = url
        self.rejections: list[dict[str, Any]] = []
        self._clients: dict[str, Client] = {}
        self._process = subprocess.Popen(
            [find_node(), str(CLIENT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def new(self) -> Client:
        name = str(len(self._clients))
        self._clients[name] = Client(self, name)
        return self._clients[name]

    def write(self, command: dict[str, Any]) -> None:
        assert self._process.stdin
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout
        for line in self._process.stdout:
            event = json.loads(line)
            if client := self._clients.get(event.get("client", "")):
                client.events.put(event)
            else:
                self.rejections.append(event)

    def close(self) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        self._process.stdout.close()


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with Simulator.start() as simulator:
        yield simulator


@pytest.fixture
def clients(simulator: Simulator) -> Iterator[Clients]:
    simulator.clear_faults()
    clients = Clients(simulator.ws_url)
    yield clients
    clients.close()
    simulator.clear_faults()
    simulator.phone(PHONE, exists=True, passkey=False).remove_device()
    wait_until(lambda: not simulator.journal()["connections"]["open"], "all gone")
    simulator.reset_journal()


@pytest.fixture
def client(clients: Clients) -> Client:
    return clients.new()


def link(simulator: Simulator, client: Client, number: str = PHONE) -> str:
    """Link by QR, up to open; the device's jid."""
    qr = client.connect().wait("qr")["qr"]
    linked = simulator.phone(number).scan(qr)
    assert linked["ok"], linked
    client.wait("open")
    jid: str = linked["jid"]
    return jid
