"""What a Sentry is really sent: by the page server, by a gateway, and at their end."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway_fixtures import silence
from tests.scenarios import Page, SalonUnderTest, World
from tests.sentry_world import Sink
from tests.server import ROOT
from tests.simulator import Simulator

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

# What PostgreSQL says of a row that it does not want, the row included.
REFUSE = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'not % of %', NEW.value, NEW.company_id USING DETAIL = NEW.value;
END $$;
CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON whatsapp_keys
FOR EACH ROW EXECUTE FUNCTION refuse()
"""


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink() as running:
        yield running


def settings(sink: Sink) -> dict[str, str]:
    return {
        "SENTRY_DSN": sink.dsn,
        "SENTRY_ENVIRONMENT": "tests",
        "NO_PROXY": "127.0.0.1",
    }


async def link(salon: SalonUnderTest, page: Page) -> None:
    mark = page.mark
    await page.send("request-pairing-code", phoneNumber=f"+{salon.number}")
    _, data = await page.event("pairing-code", since=mark)
    assert (await asyncio.to_thread(salon.phone.enter_code, data["code"]))["ok"]
    await page.event("whatsapp-connected", since=mark)


async def fail(world: World, sink: Sink) -> tuple[SalonUnderTest, list[str]]:
    """A mismatch, a write that the database refuses, and a Node.js that dies."""
    salon = world.salon()
    await asyncio.to_thread(salon.store_half_paired, salon.other_number)
    async with salon.page() as page:
        await link(salon, page)
        await page.send("request-pairing-code", phoneNumber="12")
        await page.event("pairing-code-error")
        await asyncio.to_thread(sink.wait_for, "phone_mismatch_cleanup")

        await asyncio.to_thread(world.query, REFUSE)
        sender = f"7904{salon.number[4:]}"
        await asyncio.to_thread(salon.phone.send_text, "Здравствуйте!", sender=sender)
        await asyncio.to_thread(sink.wait_for, "set_keys")
        await asyncio.to_thread(world.query, "DROP TRIGGER refuse ON whatsapp_keys")

        await asyncio.to_thread(world.kill_node)
        await asyncio.to_thread(sink.wait_for, "engine_crashed")
    stored = await asyncio.to_thread(
        world.query,
        "SELECT creds::text FROM whatsapp_auth"
        " UNION ALL SELECT value::text FROM whatsapp_keys",
    )
    keys = {key for (text,) in stored for key in re.findall(r"[\w+/]{40,}", text)}
    assert len(keys) > 800
    return salon, [*keys, page.token, page.token.split(".")[2]]


def test_each_failure_of_a_running_service_is_one_event(tmp_path: Path, sink: Sink):
    with (
        Simulator.start() as simulator,
        World(tmp_path, simulator, settings(sink), gateways=1) as world,
    ):
        salon, secrets = asyncio.run(fail(world, sink))

    def the_one(operation: str) -> dict[str, str]:
        (event,) = sink.of(operation)
        assert event["environment"] == "tests"
        assert event["release"].startswith("aiadmin@")
        tags: dict[str, str] = event["tags"]
        return tags

    assert the_one("phone_mismatch_cleanup") == {
        "component": "baileys_auth",
        "operation": "phone_mismatch_cleanup",
        "company_id": salon.session_id,
        "mismatch_type": "half_paired",
    }
    assert the_one("set_keys") == {
        "component": "baileys_auth",
        "operation": "set_keys",
        "company_id": salon.session_id,
        "category": "database",
    }
    assert the_one("engine_crashed") == {
        "component": "engine",
        "operation": "engine_crashed",
    }
    operations = [event.get("tags", {}).get("operation") for event in sink.events]
    assert sorted(operations) == [
        "engine_crashed",
        "phone_mismatch_cleanup",
        "set_keys",
    ]

    sent = "\n".join(sink.envelopes)
    assert "Здравствуйте" not in sent
    assert f"***{salon.number[-4:]}" in sent
    for secret in (salon.number, salon.other_number, *secrets):
        assert secret not in sent


def run(sink_dsn: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "SENTRY_DSN": sink_dsn, "NO_PROXY": "127.0.0.1", **env},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_command_that_fails_is_one_event_which_is_sent_before_it_ends(sink: Sink):
    # Of our own commands it would be a sentence for whoever called them.
    nowhere = "postgresql://aiadmin:hunter2@127.0.0.1:9/aiadmin"
    done = run(sink.dsn, "manage.py", "showmigrations", DATABASE_URL=nowhere)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    (event,) = sink.events
    assert event["level"] == "fatal"
    assert event["tags"] == {"component": "command", "category": "database"}
    assert "hunter2" not in sink.envelopes[0]


def test_a_command_that_was_called_wrongly_is_no_event(sink: Sink):
    done = run(sink.dsn, "manage.py", "whatsapp_status", "a-salon")
    assert done.returncode != 0
    assert sink.events == []


def test_a_process_ends_although_sentry_does_not_answer():
    with silence() as port:
        done = run(
            f"http://public@127.0.0.1:{port}/1",
            "-c",
            "import django, logging, os\n"
            "os.environ['DJANGO_SETTINGS_MODULE'] = 'aiadmin.settings'\n"
            "django.setup()\n"
            "logging.getLogger('whatsapp').error('bad')\n",
        )
    assert done.returncode == 0
    assert "Sentry" not in done.stderr
