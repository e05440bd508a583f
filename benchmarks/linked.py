"""Thousands of linked devices, made from one real link: in the tables, and in folders."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bare import Bare
from benchmarks.service import Service
from tests.simulator import Simulator

FIRST_SALON = 500_000
MODEL_PHONE = "79035550000"
BATCH = 500

Key = tuple[str, str, str]
"""Type, id and value as JSON text."""


@dataclass(frozen=True)
class Device:
    """A linked device as WhatsApp knows it."""

    number: str
    jid: str
    lid: str

    @property
    def session_id(self) -> str:
        """Under which the tables have it, if they do."""
        return f"company_{self.salon_id}"

    @property
    def salon_id(self) -> int:
        """Each number has a salon of its own."""
        return FIRST_SALON + int(self.number[-8:])


@dataclass(frozen=True)
class Model:
    """What a real link has stored, to make others from."""

    device: Device
    creds: str
    keys: Sequence[Key]

    @classmethod
    async def link(
        cls, simulator: Simulator, bare: Bare, folder: Path, pre_keys: int
    ) -> "Model":
        """Link a device by code, and let it log in twice.

        Args:
            simulator: where.
            bare: links it.
            folder: for its files, and the record of its key store.
            pre_keys: so many of its 812 are kept, and the last: 5,000 sessions with all
                of them would be four million files.
        """
        await asyncio.to_thread(folder.mkdir)
        trace = folder / "trace.jsonl"
        phone = await asyncio.to_thread(simulator.phone, MODEL_PHONE)
        code, _ms = await bare.code(MODEL_PHONE, folder / "auth", trace)
        answer = await asyncio.to_thread(phone.enter_code, code)
        await bare.opened(MODEL_PHONE)
        # What its phone tells a new device is stored, too.
        await asyncio.to_thread(simulator.traffic, [answer["jid"]])
        await bare.close(MODEL_PHONE)
        # Not from its files: Baileys may be writing them yet.
        entries = await asyncio.to_thread(entries_of, trace)
        creds = [entry["creds"] for entry in entries if "creds" in entry][-1]
        device = Device(MODEL_PHONE, creds["me"]["id"], creds["me"]["lid"])
        return cls(device, json.dumps(creds), _kept(entries, pre_keys))

    def creds_of(self, device: Device) -> str:
        """Return the creds of another device."""
        return self._renamed(self.creds, device)

    def keys_of(self, device: Device) -> list[Key]:
        """Return the keys of another device."""
        return [
            (key_type, self._renamed(key_id, device), self._renamed(value, device))
            for key_type, key_id, value in self.keys
        ]

    def _renamed(self, text: str, device: Device) -> str:
        text = text.replace(self.device.jid, device.jid)
        text = text.replace(_user(self.device.lid), _user(device.lid))
        return text.replace(self.device.number, device.number)


def _user(jid: str) -> str:
    return jid.split("@")[0].split(":")[0]


def entries_of(trace: Path) -> list[dict[str, Any]]:
    """Return the record of a key store; a last line that is still written is left out."""
    lines = trace.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _kept(entries: Sequence[dict[str, Any]], pre_keys: int) -> list[Key]:
    """Return what a key store holds in the end, but no Signal session."""
    stored: dict[tuple[str, str], Any] = {}
    for entry in entries:
        for row in entry.get("set", ()):
            stored[row["t"], row["i"]] = row["v"]
    numbers = sorted(
        int(i) for (t, i), v in stored.items() if t == "pre-key" and v is not None
    )
    kept = {str(number) for number in (*numbers[:pre_keys], *numbers[-1:])}
    return [
        (key_type, key_id, json.dumps(value))
        for (key_type, key_id), value in stored.items()
        if value is not None
        and key_type not in ("session", "identity-key")
        and (key_type != "pre-key" or key_id in kept)
    ]


def double(
    simulator: Simulator, model: Model, first: int, count: int, prefix: str
) -> list[Device]:
    """Make devices with the model's keys known to WhatsApp.

    Args:
        simulator: where.
        model: whose keys they have.
        first: number of the first one.
        count: how many.
        prefix: four digits that their phones begin with.
    """
    numbers = [f"{prefix}{number:07d}" for number in range(first, first + count)]
    made = []
    for at in range(0, count, BATCH):
        made += simulator.double_device(model.device.jid, numbers[at : at + BATCH])
    return [Device(one["phone"], one["jid"], one["lid"]) for one in made]


def into_tables(
    service: Service, model: Model, devices: Sequence[Device], *, wanted: bool = True
) -> None:
    """Make a linked salon for each device, as a gateway that was lost has left it.

    Args:
        service: whose tables.
        model: whose creds and keys they get.
        devices: for them.
        wanted: else staff has stopped them.
    """
    state = ("reconnecting", "gateway_lost") if wanted else ("stopped", "")
    with service.database() as connection, connection.transaction():
        cursor = connection.cursor()
        cursor.executemany(
            "WITH salon AS (INSERT INTO whatsapp_salon"
            " (salon_id, title, expected_phone, shared_phone_allowed)"
            " VALUES (%s, %s, '', false) RETURNING id)"
            " INSERT INTO whatsapp_whatsappsession (salon_id, status, reason, phone,"
            " wanted, owner, epoch, resets, revision)"
            " SELECT id, %s, %s, %s, %s, '', 0, 0, 0 FROM salon",
            [
                (one.salon_id, f"Salon {one.salon_id}", *state, one.number, wanted)
                for one in devices
            ],
        )
        with cursor.copy("COPY whatsapp_auth (company_id, creds) FROM STDIN") as copy:
            for one in devices:
                copy.write_row((one.session_id, model.creds_of(one)))
        with cursor.copy(
            "COPY whatsapp_keys (company_id, key_type, key_id, value) FROM STDIN"
        ) as copy:
            for one in devices:
                for key in model.keys_of(one):
                    copy.write_row((one.session_id, *key))
    with service.database() as connection:
        connection.execute("ANALYZE")


def into_folders(
    root: Path, model: Model, devices: Sequence[Device]
) -> list[tuple[str, Path]]:
    """Make a folder for each device, as Baileys' useMultiFileAuthState keeps them."""
    folders = []
    for one in devices:
        folder = root / one.number
        folder.mkdir(parents=True)
        (folder / "creds.json").write_text(model.creds_of(one))
        for key_type, key_id, value in model.keys_of(one):
            (folder / _file_name(f"{key_type}-{key_id}.json")).write_text(value)
        folders.append((one.number, folder))
    return folders


def _file_name(name: str) -> str:
    return name.replace("/", "__").replace(":", "-")
