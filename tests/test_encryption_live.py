"""A live link while encryption comes, its key changes, is lost and comes back.

What is tried is that WhatsApp sees no difference: nothing is linked again, and every
message that a contact writes meanwhile can be read.
"""

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.database import KEYS, new_key
from tests.scenarios import SalonUnderTest, World
from tests.service_fixtures import eventually, link_by_code, link_by_qr
from tests.simulator import Simulator
from tests.test_secrets import Secrets
from whatsapp.services import sealing

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

CONTACTS = 4
_NOT_READ = "retry"

_KIDS = """
SELECT DISTINCT coalesce(value->>'kid', '') FROM (
    SELECT creds AS value FROM whatsapp_auth WHERE company_id = %s
    UNION ALL SELECT value FROM whatsapp_keys WHERE company_id = %s
) stored
"""


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with Simulator.start() as running:
        yield running


def kids(salon: SalonUnderTest) -> set[str]:
    """Return the ids of the keys that seal a salon's rows; of plain ones: empty."""
    rows = salon.world.query(_KIDS, salon.session_id, salon.session_id)
    return {kid for (kid,) in rows}


class Contacts:
    """Who writes to a salon, and what has become of it."""

    def __init__(self, salon: SalonUnderTest, jid: str) -> None:
        self.salon, self.jid = salon, jid
        self.sent: list[str] = []
        self._numbers = [f"795{n}{salon.number[4:]}" for n in range(CONTACTS)]

    def write(self, contact: int = 0) -> None:
        """Send one message to the salon, which must be connected."""
        number = self._numbers[contact]
        ids = self.salon.phone.send_text("Здравствуйте!", sender=number)
        assert ids, "the salon was not connected"
        self.sent += ids

    def unread(self) -> set[str]:
        """Return what no device has confirmed; fail if one could not read it."""
        receipts = self.salon.world.simulator.journal()["receipts"]
        mine = [one for one in receipts if one["from"] == self.jid]
        assert not [one for one in mine if one["type"] == _NOT_READ]
        return set(self.sent) - {one["id"] for one in mine}

    async def are_read(self) -> None:
        """Wait until everything is."""
        await eventually(lambda: not self.unread(), "messages are read")

    async def keep_writing(self) -> None:
        """Write in turns, each message after the last has been read; until cancelled."""
        number = 0
        while True:
            await asyncio.to_thread(self.write, number % CONTACTS)
            await self.are_read()
            number += 1


class Life:
    """A salon that is linked once, and a service that is restarted again and again."""

    def __init__(self, world: World, django: Any) -> None:
        self.world = world
        self.django = django
        self.salon = world.salon()
        self.contacts: Contacts

    async def link(self) -> None:
        async with self.salon.page() as page:
            jid = await link_by_code(self.salon, page)
        self.contacts = Contacts(self.salon, jid)

    async def restart(self, *keys: str) -> None:
        """Start the service anew with these keys."""
        self.use(*keys)
        await asyncio.to_thread(self.world.restart)

    def use(self, *keys: str) -> None:
        """Let every new process have these keys, and this one, which reads the tables."""
        self.world.change_settings(**{KEYS: ",".join(keys)})
        self.django.CREDENTIAL_ENCRYPTION_KEYS = list(keys)

    async def resumes(self) -> None:
        """The salon is connected without its phone, and reads what is written."""
        async with self.salon.page() as page:
            await page.status("open")
            assert "qr-update" not in [name for name, _ in page.said]
        for contact in range(CONTACTS):
            await asyncio.to_thread(self.contacts.write, contact)
        await self.contacts.are_read()

    async def encrypts_while_contacts_write(self) -> dict[str, Any]:
        """Run the command on the live link; return its report."""
        logins = await self._logins()
        writing = asyncio.create_task(self.contacts.keep_writing())
        before = len(self.contacts.sent)
        text = await asyncio.to_thread(self.world.manage, "whatsapp_encrypt", "--json")
        assert len(self.contacts.sent) > before
        writing.cancel()
        # Not for what it was waiting: it must not have failed.
        with pytest.raises(asyncio.CancelledError):
            await writing
        await self.contacts.are_read()
        assert await self._logins() == logins, "the session was disturbed"
        report: dict[str, Any] = json.loads(text)
        return report

    async def _logins(self) -> int:
        journal = await asyncio.to_thread(self.world.simulator.journal)
        return int(journal["devices"][self.contacts.jid]["logins"])


async def test_a_live_link_is_encrypted_gets_another_key_and_outlives_a_lost_one(
    tmp_path: Path, simulator: Simulator, settings: Any
):
    first, second = new_key(), new_key()
    with World(tmp_path, simulator, {KEYS: ""}) as world:
        life = Life(world, settings)
        life.use()
        # The simulator has seen other tests.
        registered = (await asyncio.to_thread(simulator.journal))["registrations"]
        await life.link()
        await life.resumes()
        salon = life.salon
        assert await asyncio.to_thread(kids, salon) == {""}
        plain = (await asyncio.to_thread(salon.creds) or {})["noiseKey"]

        # It gets a key: what lies plain is read, what is new is sealed.
        await life.restart(first)
        await life.resumes()
        kid = sealing.current_kid()
        assert await asyncio.to_thread(kids, salon) == {"", kid}

        report = await life.encrypts_while_contacts_write()
        assert report["failed"] == {}
        assert report["found"]["keys"]["plain"] > 700
        assert await asyncio.to_thread(kids, salon) == {kid}

        # Another key.
        await life.restart(second, first)
        await life.resumes()
        other = sealing.current_kid()
        assert await asyncio.to_thread(kids, salon) == {kid, other}
        report = await life.encrypts_while_contacts_write()
        assert report["forgotten"] == [kid]
        assert await asyncio.to_thread(kids, salon) == {other}

        # It is lost.
        for left in ((), (first,)):
            await life.restart(*left)
            async with salon.page() as page:
                told = await page.status("needs_attention")
            assert told["reason"] == "1011"
            assert "не может открыть сохранённую привязку" in told["message"]
            assert told["action"], "who cannot wait may link anew"
        assert await asyncio.to_thread(kids, salon) == {other}

        # And found again.
        await life.restart(second)
        await life.resumes()
        assert (await asyncio.to_thread(salon.creds) or {})["noiseKey"] == plain
        assert len(await asyncio.to_thread(salon.phone.devices)) == 1
        journal = await asyncio.to_thread(simulator.journal)
        assert journal["devices"][life.contacts.jid]["peakOpenSockets"] == 1
        assert journal["registrations"] == registered + 1
        assert first not in world.logs
        assert second not in world.logs


def everything(world: World) -> list[str]:
    """Return every row of every table as text."""
    tables = world.query(
        "SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public'"
    )
    assert len(tables) > 20
    return [
        text
        for (table,) in tables
        for (text,) in world.query(f"SELECT each::text FROM {table} each")  # noqa: S608
    ]


Link = Callable[[SalonUnderTest, Any], Any]


async def test_with_a_key_nothing_of_a_link_lies_plain_in_any_table(
    tmp_path: Path, simulator: Simulator, settings: Any
):
    secrets = Secrets()
    key = new_key()
    settings.CREDENTIAL_ENCRYPTION_KEYS = [key]
    with World(tmp_path, simulator, {KEYS: key}) as world:

        def look(salon: SalonUnderTest) -> None:
            secrets.add_stored("creds", salon.creds())
            for (key_type, _), value in salon.keys().items():
                secrets.add_stored(key_type, value)

        # Linked in both ways, written to, restarted; then one gets another phone, whose
        # predecessor goes to the archive.
        salons = [world.salon(), world.salon()]
        ways: list[Link] = [link_by_code, link_by_qr]
        for salon, link in zip(salons, ways, strict=True):
            async with salon.page() as page:
                contacts = Contacts(salon, await link(salon, page))
            await asyncio.to_thread(contacts.write)
            await contacts.are_read()
            await asyncio.to_thread(look, salon)
        await asyncio.to_thread(world.restart)
        for salon in salons:
            async with salon.page() as page:
                await page.status("open")
            await asyncio.to_thread(look, salon)
        salon = salons[0]
        async with salon.page() as page:
            mark = page.mark
            await page.send("request-pairing-code", phoneNumber=salon.other_number)
            _, shown = await page.event("pairing-code", since=mark)
            entered = salon.other_phone.enter_code
            assert (await asyncio.to_thread(entered, shown["code"]))["ok"]
            await page.event("whatsapp-connected", since=mark)
        await asyncio.to_thread(look, salon)

        assert secrets.kinds() >= {
            "creds.noiseKey.private",
            "creds.signedIdentityKey.private",
            "creds.advSecretKey",
            "pre-key.private",
        }
        rows = await asyncio.to_thread(everything, world)
        assert not secrets.found_in(rows)
        text = "".join(rows)
        assert not re.search('noiseKey|advSecretKey|_sessions"|currentRatchet', text)
        archived = await asyncio.to_thread(
            world.query, "SELECT encrypted, kid FROM whatsapp_archivedcredentials"
        )
        assert archived == [(True, sealing.current_kid())]
        assert key not in text

        # It would have been found.
        await asyncio.to_thread(world.manage, "whatsapp_encrypt", "--decrypt")
        plain = await asyncio.to_thread(everything, world)
        assert len(secrets.found_in(plain)) > 1000
