"""Lists of salons over the admin's WebSockets: what they hold, and what they cost."""

import json
from contextlib import AsyncExitStack
from datetime import timedelta

import pytest
from django.db import transaction
from django.db.backends.utils import CursorWrapper
from django.db.models import F
from django.db.models.functions import Now

from tests.factories import (
    OTHER_PHONE,
    OWNER,
    PHONE,
    QR,
    link,
    make_salon,
    show_code,
    show_qr,
)
from tests.pages import STATUS_PATH, call, eventually, log_in, opened_by
from tests.socket_fixtures import (
    REQUESTS,
    by_salon,
    often,
    owner,
    salon,
    support,
    traces,
)
from whatsapp import events, watcher
from whatsapp.models import Membership, Salon, WhatsAppSession
from whatsapp.services import pairing, sessions

__all__ = ["often", "owner", "salon", "support"]

pytestmark = pytest.mark.django_db(transaction=True)


async def test_a_list_is_told_all_of_its_salons_and_then_what_changes(salon, owner):
    other = await call(make_salon)
    await call(Membership.objects.create, user=owner, salon=other, role="viewer")
    epoch = await call(link, salon)
    async with opened_by(owner, STATUS_PATH + "?lang=en") as page:
        await page.send("watch", salons=[salon.pk, other.pk])
        name, data = await page.next()
        assert name == "salon-statuses"
        rows = by_salon(data)
        assert set(rows) == {salon.pk, other.pk}
        assert rows[salon.pk] == {
            "salon": salon.pk,
            "status": "open",
            "label": "Connected",
            "phone": "79***4567",
            "since": rows[salon.pk]["since"],
            "lastAliveAt": rows[salon.pk]["lastAliveAt"],
            "owner": OWNER,
            "reason": None,
            "message": "WhatsApp is connected.",
        }
        assert rows[salon.pk]["since"].endswith("+00:00")
        assert rows[salon.pk]["lastAliveAt"].endswith("+00:00")
        assert rows[other.pk]["status"] == "unlinked"
        assert rows[other.pk]["lastAliveAt"] is None
        await call(sessions.record, salon, epoch, "reconnecting", "428")
        rows = by_salon(await page.until("salon-statuses"))
        assert set(rows) == {salon.pk}
        assert (rows[salon.pk]["status"], rows[salon.pk]["reason"]) == (
            "reconnecting",
            "428",
        )


async def test_a_list_never_holds_a_secret(salon, owner):
    async with opened_by(owner, STATUS_PATH) as page:
        await page.send("watch", salons=[salon.pk])
        await page.until("salon-statuses")
        await call(pairing.request_qr, salon, "page")
        await call(show_qr, salon)
        await call(pairing.request_code, salon, PHONE, "page")
        await call(show_code, salon)
        while (await page.until("salon-statuses"))["salons"][0][
            "message"
        ] != "Введите код в WhatsApp на телефоне.":
            pass
        said = json.dumps(page.seen)
    for secret in (QR, "ABCD-1234", PHONE):
        assert secret not in said


async def test_what_may_not_be_seen_is_left_out_like_what_is_not_there(salon, owner):
    foreign = await call(make_salon)
    async with opened_by(owner, STATUS_PATH) as page:
        for asked in (
            [foreign.pk],
            [999_999],
            [],
            [0, -1, 2**40, 2**63],
        ):
            await page.send("watch", salons=asked)
            assert await page.next() == ("salon-statuses", {"salons": []})
        await page.send("watch", salons=[foreign.pk, salon.pk, 999_999, salon.pk])
        assert set(by_salon((await page.next())[1])) == {salon.pk}
        await call(link, foreign)
        await call(link, salon, OTHER_PHONE)
        while by_salon(await page.until("salon-statuses"))[salon.pk]["status"] != (
            "open"
        ):
            pass
        assert all(
            set(by_salon(data)) <= {salon.pk}
            for name, data in page.seen
            if name == "salon-statuses"
        )


async def test_another_watch_takes_the_place_of_the_one_before(salon, support):
    other = await call(make_salon)
    async with opened_by(support, STATUS_PATH) as page:
        await page.send("watch", salons=[salon.pk])
        await page.until("salon-statuses")
        await page.send("watch", salons=[other.pk])
        await page.until("salon-statuses")
        await call(link, salon)
        await call(pairing.request_qr, other, "page")
        data = await page.until("salon-statuses")
        assert set(by_salon(data)) == {other.pk}
        assert await page.settled() == []


@pytest.mark.parametrize(
    "text",
    [
        "no JSON",
        "[]",
        '{"event": "watch"}',
        '{"event": "watch", "data": {}}',
        '{"event": "watch", "data": {"salons": null}}',
        '{"event": "watch", "data": {"salons": {"1": 2}}}',
        '{"event": "watch", "data": {"salons": "1"}}',
        '{"event": "watch", "data": {"salons": ["1"]}}',
        '{"event": "watch", "data": {"salons": [true]}}',
        '{"event": "watch", "data": {"salons": [1.5]}}',
        '{"event": "watch", "data": {"salons": [[1]]}}',
        '{"event": "watch", "data": {"salons": [null]}}',
        json.dumps({"event": "watch", "data": {"salons": list(range(1, 502))}}),
    ],
)
async def test_what_is_no_list_of_salons_is_answered(salon, owner, text):
    async with opened_by(owner, STATUS_PATH) as page:
        await page.socket.send_to(text)
        assert (await page.next())[1]["code"] == "INVALID_MESSAGE"
        await page.send("watch", salons=[salon.pk])
        await page.until("salon-statuses")


@pytest.mark.parametrize("name", [*REQUESTS, "get-status", "auth", "_watch", "show"])
async def test_a_list_knows_no_other_request(salon, owner, name):
    before = await call(traces)
    async with opened_by(owner, STATUS_PATH) as page:
        await page.send(name, **REQUESTS.get(name, {}))
        assert (await page.next())[1]["code"] == "UNKNOWN_EVENT"
    assert await call(traces) == before


def _many_salons(count):
    made = Salon.objects.bulk_create(
        [Salon(salon_id=5_000_000 + n, title=f"Салон {n}") for n in range(count)]
    )
    WhatsAppSession.objects.bulk_create([WhatsAppSession(salon=each) for each in made])
    return [each.pk for each in made]


@pytest.fixture
def queries(monkeypatch):
    """Return what is asked of the database in any thread, transactions left out."""
    asked: list[str] = []
    execute = CursorWrapper.execute

    def noted(self, sql, params=None):
        asked.append(str(sql))
        return execute(self, sql, params)

    monkeypatch.setattr(CursorWrapper, "execute", noted)
    return asked


async def test_five_hundred_salons_cost_as_many_queries_as_one(support, queries):
    pks = await call(_many_salons, 500)
    cost = []
    for asked in (pks[:1], pks):
        async with opened_by(support, STATUS_PATH) as page:
            await page.send("watch", salons=[])
            await page.until("salon-statuses")
            queries.clear()
            await page.send("watch", salons=asked)
            data = await page.until("salon-statuses")
            cost.append(
                [q for q in queries if "whatsapp_salon" in q or "django_session" in q]
            )
            assert set(by_salon(data)) == set(asked)
    assert len(cost[0]) == len(cost[1]) <= 4


async def test_many_changes_come_in_few_frames(support):
    pks = await call(_many_salons, 200)

    def change():
        # what a gateway does that takes over after another has died
        WhatsAppSession.objects.filter(salon_id__in=pks).update(
            status="connecting", revision=F("revision") + 1
        )
        with transaction.atomic():
            for pk in pks:
                events.publish(pk)

    async with opened_by(support, STATUS_PATH) as page:
        await page.send("watch", salons=pks)
        await page.until("salon-statuses")
        await call(change)
        told: set[int] = set()
        while told != set(pks):
            data = await page.until("salon-statuses")
            told |= {row["salon"] for row in data["salons"]}
    assert len(page.seen) < 50


async def test_one_look_serves_any_number_of_lists(support, often, queries):
    pks = await call(_many_salons, 50)
    cookie = await call(log_in, support)
    async with AsyncExitStack() as stack:
        pages = [
            await stack.enter_async_context(opened_by(None, STATUS_PATH, cookie))
            for _ in range(10)
        ]
        for page in pages:
            await page.send("watch", salons=pks)
            await page.until("salon-statuses")
        queries.clear()
        await eventually(lambda: sum("unnest" in q for q in queries) >= 5)
        asked = list(queries)
        looks = sum("unnest" in q for q in asked)
        assert len(asked) <= 5 * (looks + 1)


async def test_signs_of_life_and_owners_come_without_any_change(
    salon, owner, often, monkeypatch
):
    monkeypatch.setattr(watcher, "WATCHED_SECONDS", 0.0)
    await call(link, salon)
    async with opened_by(owner, STATUS_PATH) as page:
        await page.send("watch", salons=[salon.pk])
        before = by_salon(await page.until("salon-statuses"))[salon.pk]
        await call(
            WhatsAppSession.objects.update,
            last_alive_at=Now() + timedelta(minutes=1),
            owner="gateway-b",
        )
        while True:
            after = by_salon(await page.until("salon-statuses"))[salon.pk]
            if after["owner"] == "gateway-b":
                break
        assert after["lastAliveAt"] > before["lastAliveAt"]
