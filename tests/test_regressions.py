"""Old troubles that no other file covers; docs/regressions.md lists all of them."""

from pathlib import Path

import pytest

from tests import factories
from tests.gateway_fixtures import (
    SalonStory,
    World,
    clean_database,
    simulator,
    world,
)
from whatsapp.engine import SessionRef
from whatsapp.gateway import manager
from whatsapp.gateway.auth_store import DatabaseAuthStore
from whatsapp.gateway.database import Services, conninfo
from whatsapp.models import WhatsAppKey
from whatsapp.services import credentials

__all__ = ["clean_database", "simulator", "world"]

ROOT = Path(__file__).resolve().parent.parent
LONG_AGO = "2020-01-01T00:00:00Z"


@pytest.mark.django_db(transaction=True)
async def test_dates_of_the_previous_service_expire_no_key():
    call = Services()
    salon = await call(factories.make_salon)
    await call(factories.store_creds, salon, factories.make_creds())
    keys = WhatsAppKey.objects.filter(company_id=salon.session_id)
    await call(keys.update, expires_at=LONG_AGO, updated_at=LONG_AGO)
    expected = await call(keys.count)

    store = DatabaseAuthStore(await call(conninfo), size=1)
    await store.open()
    ref = SessionRef(salon.session_id, 1, 0)
    assert await store.get_keys(ref, "pre-key", ["1"]) != "{}"
    await store.close()

    await call(credentials.clear_expiry)
    assert await call(keys.filter(expires_at=None).count) == expected > 0
    call.close()


@pytest.mark.e2e
@pytest.mark.timeout(240)
async def test_a_session_that_falls_silent_is_not_called_connected(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manager, "LIFE_SECONDS", 0.1)
    monkeypatch.setattr(manager, "DEGRADED_SECONDS", 2.0)
    await world.gateway(alive_interval=0.1, keep_alive=0.5)
    salon = await world.open_salon()
    number = salon.phone.number
    await world.on_connections("freeze", phone=number)
    assert (await salon.status("degraded"))["reason"] == "silent"
    await world.on_connections("freeze", phone=number, on=False)
    await salon.status("open")


@pytest.mark.e2e
@pytest.mark.timeout(240)
async def test_a_session_that_stays_silent_is_connected_anew(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Baileys gives a dead connection up after its second ping; here it has none."""
    monkeypatch.setattr(manager, "LIFE_SECONDS", 0.1)
    monkeypatch.setattr(manager, "DEGRADED_SECONDS", 0.5)
    monkeypatch.setattr(manager, "REVIVE_SECONDS", 3.0)
    await world.gateway(alive_interval=0.1, keep_alive=600)
    salon = await world.linked_salon()
    await salon.connect()
    await salon.status("degraded")
    await world.until(lambda: _logged_in_twice(world, salon), "a new connection")
    # And again, for as long as WhatsApp says nothing.
    await salon.status("open")
    await salon.status("degraded")


@pytest.mark.e2e
@pytest.mark.timeout(240)
async def test_the_silence_of_a_former_connection_does_not_end_the_next(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manager, "LIFE_SECONDS", 0.05)
    gateway = await world.gateway()
    salon = await world.open_salon()
    seen = gateway.manager._seen
    seen[salon.pk] -= manager.REVIVE_SECONDS - 1
    await world.on_connections("drop", phone=salon.phone.number)
    await world.until(lambda: _logged_in_twice(world, salon), "a new connection")
    await salon.status("open")
    assert gateway.loop.time() - seen[salon.pk] < manager.DEGRADED_SECONDS


async def _logged_in_twice(world: World, salon: SalonStory) -> bool:
    return (await world.device(await salon.me()))["logins"] >= 2


def test_certificates_are_never_left_unchecked():
    sources = [
        path
        for folder in ("aiadmin", "whatsapp")
        for kind in ("*.py", "*.js")
        for path in (ROOT / folder).rglob(kind)
        if "node_modules" not in path.parts
    ]
    assert len(sources) > 30
    switches = ("rejectUnauthorized", "TLS_REJECT", "verify=False", "CERT_NONE")
    found = [path for path in sources if any(s in path.read_text() for s in switches)]
    assert found == []
