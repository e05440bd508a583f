"""What salons have stored before a test begins: half a link, an old one, or a real one."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from tests.scenarios import SalonUnderTest, World

Data = dict[str, Any]


def _buffer(size: int) -> Data:
    return {"type": "Buffer", "data": list(os.urandom(size))}


def half_paired_creds(number: str) -> Data:
    """Return creds of the previous service after an unanswered code, invented values."""

    def pair() -> Data:
        return {"private": _buffer(32), "public": _buffer(32)}

    return {
        "noiseKey": pair(),
        "pairingEphemeralKeyPair": pair(),
        "signedIdentityKey": pair(),
        "signedPreKey": {"keyPair": pair(), "signature": _buffer(64), "keyId": 1},
        "registrationId": 117,
        "advSecretKey": base64.b64encode(os.urandom(32)).decode(),
        "processedHistoryMessages": [],
        "nextPreKeyId": 1,
        "firstUnuploadedPreKeyId": 1,
        "accountSyncCounter": 0,
        "accountSettings": {"unarchiveChats": False},
        "registered": False,
        "pairingCode": "ABCD1234",
        "me": {"id": f"{number}@s.whatsapp.net", "name": "~"},
    }


def stale_keys() -> list[Data]:
    """Return a few keys that an earlier link left behind, in all three encodings."""
    return [
        {
            "t": "pre-key",
            "i": "1",
            "v": {"private": _buffer(32), "public": _buffer(32)},
        },
        {
            "t": "session",
            "i": "79990001122.0",
            "v": {
                "type": "Buffer",
                "data": base64.b64encode(os.urandom(64)).decode(),
            },
        },
        {
            "t": "identity-key",
            "i": "79990001122.0",
            "v": {str(at): value for at, value in enumerate(os.urandom(33))},
        },
    ]


class LinkedTemplate:
    """Creds and keys of a device that was really linked, to make others from."""

    def __init__(self, creds: str, keys: str, number: str) -> None:
        self._creds, self._keys, self._number = creds, keys, number

    @classmethod
    async def make(cls, world: World) -> Self:
        """Link a salon by QR and take what it stored."""
        salon = world.salon()
        async with salon.page() as page:
            _, data = await page.event("qr-update")
            assert (await asyncio.to_thread(salon.phone.scan, data["qr"]))["ok"]
            await page.status("open")
            mark = page.mark
            await page.send("disconnect-whatsapp")
            await page.status("stopped", since=mark)
        return await asyncio.to_thread(cls.of, salon)

    @classmethod
    def of(cls, salon: SalonUnderTest, *key_types: str) -> Self:
        """Take what a linked salon has stored.

        Args:
            salon: to take it from.
            key_types: take no other keys.
        """
        keys = [
            {"t": key_type, "i": key_id, "v": value}
            for (key_type, key_id), value in salon.keys().items()
            if not key_types or key_type in key_types
        ]
        return cls(json.dumps(salon.creds()), json.dumps(keys), salon.number)

    def store(self, salon: SalonUnderTest, number: str) -> str:
        """Make ``salon`` linked to ``number``, here and at WhatsApp; return the JID."""
        device = 7
        jid = f"{number}:{device}@s.whatsapp.net"
        creds = re.sub(
            rf"{self._number}:\d+@s\.whatsapp\.net", jid, self._creds
        ).replace(self._number, number)
        phone = salon.world.simulator.phone(number)
        phone.adopt_device(jid)
        salon.store(creds, self._keys.replace(self._number, number))
        return jid
