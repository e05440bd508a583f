"""A device that bare Baileys has linked goes on in our hands, and in its own again.

What is tried is not that rows look right, but that WhatsApp takes them: the device logs
in, and a contact's messages can be read on the same Signal session all the way.
"""

import asyncio
import json
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection

from tests.factories import stored_rows
from tests.gateway_fixtures import (  # noqa: F401
    SalonStory,
    World,
    clean_database,
    simulator,
    world,
)
from tests.previous_service import LONG_AGO
from tests.simulator import Phone
from tests.simulator.client_fixtures import Client, Clients
from whatsapp.models import Salon
from whatsapp.services import growth

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.e2e]

SALON_ID = 4217


@pytest.fixture
def clients(world: World) -> Iterator[Clients]:  # noqa: F811
    with closing(Clients(world.simulator.ws_url)) as clients:
        yield clients


def _link(client: Client, phone: Phone) -> str:
    client.connect().wait("qr")
    code = client.code(phone.number)
    client.wait("acknowledged")
    linked = phone.enter_code(code)
    assert linked["ok"], linked
    client.wait("open")
    return str(linked["jid"])


def _end(client: Client) -> None:
    client.do("end")
    client.wait("close")


def _leave_rows(dump: dict[str, Any], company_id: str) -> None:
    """Write what a client holds into the tables, as the previous service did."""
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO whatsapp_auth VALUES (%s, %s::jsonb, %s, %s)",
            [company_id, dump["creds"], LONG_AGO, LONG_AGO],
        )
        cursor.executemany(
            "INSERT INTO whatsapp_keys VALUES (%s, %s, %s, %s::jsonb, %s, %s, %s)",
            [
                (
                    company_id,
                    *key,
                    LONG_AGO,
                    LONG_AGO,
                    LONG_AGO + timedelta(days=7),
                )
                for key in dump["keys"]
            ],
        )


def _rows() -> tuple[str, list[tuple[str, str, str]]]:
    creds, keys = stored_rows(Salon.objects.get(salon_id=SALON_ID))
    return json.dumps(creds), [
        (key_type, key_id, json.dumps(value))
        for (key_type, key_id), value in keys.items()
    ]


def _signal_sessions(*users: str) -> dict[str, Any]:
    _, keys = stored_rows(Salon.objects.get(salon_id=SALON_ID))
    return {
        key_id: value
        for (key_type, key_id), value in keys.items()
        if key_type == "session" and key_id.startswith(users)
    }


def _take_over() -> str:
    out = StringIO()
    call_command("whatsapp_takeover", stdout=out)
    return out.getvalue()


async def test_a_device_goes_from_bare_baileys_to_us_and_back(
    world: World,  # noqa: F811
    clients: Clients,
):
    phone = await world.phone()
    contact = await world.phone()
    lid = (await asyncio.to_thread(contact.state))["lid"].partition("@")[0]

    async def writes(text: str) -> None:
        await asyncio.to_thread(phone.send_text, text, sender=contact.number)

    # The previous service links the phone, reads a message and is stopped.
    before = clients.new()
    jid = await asyncio.to_thread(_link, before, phone)
    await writes("first")
    await asyncio.to_thread(before.wait, "message", text="first")
    await asyncio.to_thread(_end, before)
    before.do("dump")
    dump = await asyncio.to_thread(before.wait, "dump")
    assert '"type":"Buffer","data":[' in dump["creds"]
    assert len(dump["keys"]) > 800
    await world.call(_leave_rows, dump, str(SALON_ID))

    # Its rows are taken over; the phone is not touched, the session opens.
    assert "Taken over: 1." in await world.call(_take_over)
    gateway = await world.gateway()
    salon = await world.call(Salon.objects.get, salon_id=SALON_ID)
    story = SalonStory(world, salon, phone)
    await story.status("open")
    assert await story.me() == jid
    found = await world.call(_signal_sessions, lid, contact.number)
    assert len(found) == 1
    await writes("second")

    async def is_read() -> bool:
        now = await world.call(_signal_sessions, *found)
        return now != found

    await world.until(is_read, "a message is read on the old Signal session")
    assert await world.call(growth.prune_orphans, dry_run=True) == {}
    await gateway.stop()
    await world.no_connections(jid=jid)

    # And back: bare Baileys goes on with the rows that we have written.
    creds, keys = await world.call(_rows)
    after = clients.new()
    after.do("load", creds=creds, keys=keys)
    await asyncio.to_thread(after.wait, "loaded")
    after.connect()
    opened = await asyncio.to_thread(after.wait, "open")
    assert opened["me"]["id"] == jid
    await writes("third")
    await asyncio.to_thread(after.wait, "message", text="third")
    after.do("send", to=f"{contact.number}@s.whatsapp.net", text="answer")
    await asyncio.to_thread(after.wait, "sent")
    await asyncio.to_thread(_end, after)

    device = await world.device(jid)
    # Linked once, never again, and never by two at a time.
    assert device["preKeyUploads"] == 1
    assert device["peakOpenSockets"] == 1
    assert (await world.journal())["registrations"] == 1
