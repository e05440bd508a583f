"""Salons that are linked, their contacts, and what these write."""

import asyncio
import itertools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tests.chaos.cluster import Cluster
from tests.scenarios import SalonUnderTest
from tests.simulator import SimulatorError
from tests.stored_state import LinkedTemplate, stale_keys

DEVICE = 7
CONTACTS = 3
"""Each of them uses up one of the pre-keys that a device has uploaded."""


@dataclass
class LinkedSalon:
    """A salon whose phone is linked, and who writes to it."""

    salon: SalonUnderTest
    jid: str
    contacts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Give it contacts."""
        number = self.salon.number
        self.contacts = [f"7955{index}{number[-6:]}" for index in range(CONTACTS)]

    @property
    def session_id(self) -> str:
        """As the tables and the logs call it."""
        return self.salon.session_id

    @property
    def numbers(self) -> list[str]:
        """Every phone that has to do with it."""
        return [self.salon.number, self.salon.other_number, *self.contacts]

    async def hear_from(self, contact: int = 0) -> bool:
        """Have a contact write; False if the device is not online."""
        try:
            await asyncio.to_thread(
                self.salon.phone.send_text,
                "Добрый день",
                sender=self.contacts[contact],
                device=int(self.jid.split(":")[1].split("@")[0]),
            )
        except SimulatorError:
            return False
        return True


async def link_by_code(cluster: Cluster, salon: SalonUnderTest) -> LinkedSalon:
    """Link a salon as its owner does."""
    async with salon.page() as page:
        await page.send("request-pairing-code", phoneNumber=f"+{salon.number}")
        name, data = await page.event("pairing-code", "pairing-code-error")
        if name != "pairing-code":
            raise RuntimeError(f"No code: {data['code']}")
        answer = await asyncio.to_thread(salon.phone.enter_code, data["code"])
        await page.event("whatsapp-connected")
    return LinkedSalon(salon, answer["jid"])


def adopt(salon: SalonUnderTest, template: LinkedTemplate) -> LinkedSalon:
    """Make a salon that the previous service had linked, with keys of its time."""
    jid = template.store(salon, salon.number)
    # It uploads pre-keys at its first login here, so that contacts can write to it.
    salon.phone.adopt_device(jid, pre_key_count=0)
    with salon.world.database() as connection:
        for key in stale_keys():
            connection.execute(
                "INSERT INTO whatsapp_keys (company_id, key_type, key_id, value)"
                " VALUES (%s, %s, %s, %s) ON CONFLICT DO NOTHING",
                (salon.session_id, key["t"], f"stale {key['i']}", json.dumps(key["v"])),
            )
    return LinkedSalon(salon, jid)


def template_of(linked: LinkedSalon) -> LinkedTemplate:
    """Return what a real link has stored, to make others from; but no Signal sessions."""
    return LinkedTemplate.of(
        linked.salon, "pre-key", "app-state-sync-key", "device-list"
    )


async def make(cluster: Cluster, count: int, by_code: int) -> list[LinkedSalon]:
    """Make ``count`` linked salons, the first ``by_code`` of them by pairing codes."""
    new = [await asyncio.to_thread(cluster.salon) for _ in range(count)]
    linked = [await link_by_code(cluster, salon) for salon in new[:by_code]]
    template = await asyncio.to_thread(template_of, linked[0])
    for salon in new[by_code:]:
        linked.append(await asyncio.to_thread(adopt, salon, template))
    return linked


async def keep_writing(salons: Sequence[LinkedSalon], per_second: float) -> None:
    """Have contacts write to all salons in turn, until cancelled."""
    rounds: Iterable[int] = itertools.count()
    for number in rounds:
        for salon in salons:
            await salon.hear_from(number % CONTACTS)
            await asyncio.sleep(1 / per_second)
