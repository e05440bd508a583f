"""A link out of a file is a link: WhatsApp takes it, and messages can be read.

What is tried is not that rows look right: the device logs in without its phone being
touched, and a contact's messages can be read on the same Signal session.
"""

import asyncio
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from tests.gateway_fixtures import (  # noqa: F401
    SalonStory,
    World,
    clean_database,
    simulator,
    world,
)
from tests.sealed import opened_key
from whatsapp.models import Salon, WhatsAppAuth, WhatsAppKey, WhatsAppSession
from whatsapp.services import backup_file, claims, salons, sealing

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.e2e]

SALON_ID = 4217


@pytest.fixture(autouse=True)
def passphrase(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings.WHATSAPP_BACKUP_PASSPHRASE = "correct horse battery staple"
    monkeypatch.setattr(backup_file, "SCRYPT_N", 2**14)


def _run(*words: str) -> str:
    out = StringIO()
    call_command(*words, stdout=out, stderr=StringIO())
    return out.getvalue()


def _move_house() -> Salon:
    """Lose everything, and begin anew elsewhere: with nothing but the salon."""
    Salon.objects.all().delete()
    WhatsAppAuth.objects.all().delete()
    WhatsAppKey.objects.all().delete()
    return salons.create(SALON_ID, "Ромашка")


def _signal_sessions(company_id: str) -> dict[str, Any]:
    keys = WhatsAppKey.objects.filter(company_id=company_id, key_type="session")
    return {
        key.key_id: opened_key(company_id, key.key_type, key.key_id, key.value)
        for key in keys
    }


async def test_a_link_goes_on_in_another_installation_without_its_phone(
    world: World,  # noqa: F811
    settings: Any,
    tmp_path: Path,
):
    settings.CREDENTIAL_ENCRYPTION_KEYS = [sealing.new_key()]
    path = str(tmp_path / "kept")
    contact = await world.phone()
    phone = await world.phone()
    salon = await world.call(salons.create, SALON_ID, "Ромашка")
    story = SalonStory(world, salon, phone)
    gateway = await world.gateway()
    jid = await story.link()

    async def reads(text: str) -> None:
        before = await world.call(_signal_sessions, story.salon.session_id)
        await asyncio.to_thread(phone.send_text, text, sender=contact.number)

        async def is_read() -> bool:
            now = await world.call(_signal_sessions, story.salon.session_id)
            return now != before

        await world.until(is_read, f"{text!r} is read on a Signal session")

    await reads("first")

    # While it runs it is not touched, and can be backed up.
    await world.call(_run, "whatsapp_backup", str(SALON_ID), f"{path}.running")
    with pytest.raises(CommandError, match="whatsapp_disconnect"):
        await world.call(
            _run, "whatsapp_restore", str(SALON_ID), f"{path}.running", "--replace"
        )
    await story.status("open")

    # It is stopped as operators do it, and backed up.
    await world.call(_run, "whatsapp_disconnect", str(SALON_ID))
    await story.status("stopped")
    await story.no_owner()
    assert "device" in await world.call(_run, "whatsapp_backup", str(SALON_ID), path)
    assert await world.sql("SELECT 1 FROM whatsapp_keys WHERE value ? 'sealed'")
    known = set(await world.call(_signal_sessions, salon.session_id))
    assert known
    await gateway.stop()

    # Another installation, with other keys.
    settings.CREDENTIAL_ENCRYPTION_KEYS = [sealing.new_key()]
    story = SalonStory(world, await world.call(_move_house), phone)
    await world.gateway()
    await world.call(_run, "whatsapp_restore", str(SALON_ID), path)
    assert (await story.session()).status == "stopped"
    assert await world.call(claims.candidates, 10) == []
    assert not await world.connections(jid=jid)

    await world.call(_run, "whatsapp_restore", str(SALON_ID), path, "--connect")
    await story.status("open")
    assert await story.me() == jid
    await reads("second")
    # On the Signal session that was in the file: nobody has begun a new one.
    assert set(await world.call(_signal_sessions, story.salon.session_id)) == known
    device = await world.device(jid)
    assert device["preKeyUploads"] == 1
    assert device["peakOpenSockets"] == 1
    assert (await world.journal())["registrations"] == 1
    assert await world.call(WhatsAppSession.objects.count) == 1
