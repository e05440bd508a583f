"""A session that is connected anew, a link that comes back out of the archive."""

from datetime import timedelta

import pytest
from django.db.models.functions import Now

from tests.admin_world import linked
from tests.factories import (
    OTHER_PHONE,
    OWNER,
    PHONE,
    claim,
    last_attempt,
    link,
    make_creds,
    make_keys,
    make_salon,
    open_attempt,
    show_code,
    show_qr,
    status_of,
    store_creds,
    stored_rows,
)
from tests.gateway_fixtures import World, clean_database, simulator, world
from whatsapp.errors import WhatsAppError
from whatsapp.models import AuditEvent, Salon, WhatsAppSession
from whatsapp.services import claims, credentials, pairing, sessions
from whatsapp.services.sessions import Disconnected, Reconnected, Restored

__all__ = ["clean_database", "simulator", "world"]

RUNNING_OR_NOT = ["open", "degraded", "reconnecting", "stopped", "needs_attention"]


def _archived(salon: Salon) -> int:
    with sessions.locked(salon):
        assert credentials.archive(salon, "replaced")
    return salon.archive.latest("id").pk


# --- connecting anew ------------------------------------------------------------------


@pytest.mark.django_db
@pytest.mark.parametrize("status", RUNNING_OR_NOT)
def test_a_linked_session_is_started_anew_whatever_it_does(status):
    salon = linked(status, owner=OWNER, epoch=7, wanted=status != "stopped")
    WhatsAppSession.objects.update(retry_at=Now() + timedelta(hours=1))
    assert sessions.reconnect(salon, "user:anna") is Reconnected.STARTED
    work = claims.work(salon.pk, OWNER)
    assert work is not None
    assert (work.status, work.wanted, work.epoch, work.wait) == (
        "connecting",
        True,
        8,
        0,
    )
    assert not sessions.record(salon, 7, "reconnecting", "428")
    event = AuditEvent.objects.get(salon=salon)
    assert (event.actor, event.detail) == ("user:anna", {"outcome": "started"})


@pytest.mark.django_db
def test_a_connected_session_can_be_left_alone():
    salon = linked("open", owner=OWNER, epoch=7)
    outcome = sessions.reconnect(salon, "user:anna", leave_open=True)
    assert outcome is Reconnected.LEFT_OPEN
    salon.refresh_from_db()
    assert (salon.session.status, salon.session.epoch) == ("open", 7)


@pytest.mark.django_db
def test_who_leaves_connected_sessions_alone_leaves_those_that_just_connect_too():
    salon = linked("connecting", owner=OWNER, epoch=7)
    outcome = sessions.reconnect(salon, "user:anna", leave_open=True)
    assert outcome is Reconnected.UNDER_WAY
    salon.refresh_from_db()
    assert salon.session.epoch == 7
    assert sessions.reconnect(salon, "user:anna") is Reconnected.STARTED


@pytest.mark.django_db
def test_a_connected_session_that_is_to_stop_is_not_left_alone():
    salon = linked("open", owner=OWNER)
    assert sessions.disconnect(salon, "x") is Disconnected.STOPPING
    assert sessions.reconnect(salon, "x", leave_open=True) is Reconnected.STARTED
    salon.refresh_from_db()
    assert salon.session.wanted


@pytest.mark.django_db
def test_what_cannot_be_connected_stays_as_it_is():
    banned, unlinked, half = linked("banned"), make_salon(), make_salon()
    store_creds(half, make_creds(linked=False))
    assert sessions.reconnect(banned, "x") is Reconnected.BANNED
    assert sessions.reconnect(unlinked, "x") is Reconnected.NOT_LINKED
    assert sessions.reconnect(half, "x") is Reconnected.NOT_LINKED
    assert (status_of(banned), status_of(unlinked)) == ("banned", "unlinked")
    assert stored_rows(half) == (None, {})


@pytest.mark.django_db
def test_a_phone_that_is_just_being_linked_is_not_cut_off():
    salon = make_salon()
    epoch = link(salon)
    pairing.request_code(salon, OTHER_PHONE, "page")
    _attempt, epoch = show_code(salon)
    assert sessions.reconnect(salon, "user:anna") is Reconnected.LINKING
    salon.refresh_from_db()
    assert salon.session.epoch == epoch
    assert open_attempt(salon).code == "ABCD-1234"


@pytest.mark.django_db
def test_to_stop_says_what_became_of_it():
    running, idle = linked("open", owner=OWNER), linked("reconnecting")
    assert sessions.disconnect(running, "x") is Disconnected.STOPPING
    assert sessions.disconnect(idle, "x") is Disconnected.STOPPED
    assert sessions.disconnect(idle, "x") is Disconnected.ALREADY
    assert sessions.disconnect(make_salon(), "x") is Disconnected.NOT_LINKED


# --- out of the archive ---------------------------------------------------------------


@pytest.mark.django_db
def test_an_archived_link_comes_back_and_is_wanted():
    salon = linked("open")
    entry = _archived(salon)
    WhatsAppSession.objects.update(status="unlinked", phone="", wanted=False, epoch=3)
    pairing.request_qr(salon, "page")
    show_qr(salon)
    before = claim(salon)
    assert sessions.restore(salon, "user:anna", entry) is Restored.STARTED
    assert stored_rows(salon) == (make_creds(), make_keys())
    assert last_attempt(salon).stage == "superseded"
    work = claims.work(salon.pk, OWNER)
    assert work is not None
    assert (work.status, work.wanted, work.attempt) == ("connecting", True, None)
    assert work.epoch > before
    salon.refresh_from_db()
    assert salon.session.phone == PHONE
    assert not salon.archive.exists()
    event = AuditEvent.objects.get(salon=salon, action="restored")
    assert (event.actor, event.detail) == ("user:anna", {"phone": "79***4567"})


@pytest.mark.django_db
def test_an_older_entry_can_be_chosen():
    salon = linked()
    first = _archived(salon)
    store_creds(salon, make_creds(OTHER_PHONE))
    _archived(salon)
    assert sessions.restore(salon, "x", first) is Restored.STARTED
    assert stored_rows(salon)[0] == make_creds()
    assert salon.archive.get().phone == OTHER_PHONE


@pytest.mark.django_db
def test_nothing_is_restored_over_a_linked_phone():
    salon = linked("open")
    entry = _archived(salon)
    store_creds(salon, make_creds(OTHER_PHONE))
    assert sessions.restore(salon, "x", entry) is Restored.LINKED
    assert stored_rows(salon)[0] == make_creds(OTHER_PHONE)
    assert salon.archive.exists()


@pytest.mark.django_db
def test_a_half_finished_link_gives_way():
    salon = linked()
    entry = _archived(salon)
    store_creds(salon, make_creds(OTHER_PHONE, linked=False))
    assert sessions.restore(salon, "x", entry) is Restored.STARTED
    assert stored_rows(salon)[0] == make_creds()
    assert AuditEvent.objects.filter(action="phone_mismatch_cleanup").exists()


@pytest.mark.django_db
def test_a_phone_in_use_elsewhere_is_restored_only_where_it_is_shared():
    salon = linked()
    entry = _archived(salon)
    linked("open")
    with pytest.raises(WhatsAppError, match="CREDENTIALS_CONFLICT"):
        sessions.restore(salon, "x", entry)
    assert stored_rows(salon) == (None, {})
    assert salon.archive.exists()
    # The object that a page holds may be older than support's tick.
    Salon.objects.filter(pk=salon.pk).update(shared_phone_allowed=True)
    assert sessions.restore(salon, "x", entry) is Restored.STARTED


@pytest.mark.django_db
def test_an_entry_of_another_salon_is_none():
    salon, other = linked("unlinked"), linked("unlinked", phone=OTHER_PHONE)
    entry = _archived(other)
    credentials.erase(salon)
    assert sessions.restore(salon, "x", entry) is Restored.GONE
    assert other.archive.exists()


@pytest.mark.django_db
def test_an_entry_that_no_key_opens_stays_in_the_archive(settings):
    settings.CREDENTIAL_ENCRYPTION_KEYS = [KEY]
    salon = linked("unlinked")
    entry = _archived(salon)
    settings.CREDENTIAL_ENCRYPTION_KEYS = []
    assert sessions.restore(salon, "x", entry) is Restored.UNREADABLE
    assert salon.archive.exists()
    assert status_of(salon) == "unlinked"


KEY = "dGVzdHMgbmVlZCBhIGtleSBvZiB0aGlydHktdHdvIGI="

# --- on the real engine ---------------------------------------------------------------


@pytest.mark.e2e
@pytest.mark.timeout(240)
async def test_an_open_session_is_closed_and_opened_anew_with_the_same_link(
    world: World,
) -> None:
    await world.gateway()
    salon = await world.open_salon()
    jid = await salon.me()
    before = await salon.session()
    outcome = await world.call(sessions.reconnect, salon.salon, "user:anna")
    assert outcome is Reconnected.STARTED

    async def opened_anew() -> bool:
        session = await salon.session()
        return session.status == "open" and session.epoch > before.epoch + 1

    await world.until(opened_anew, "it is open again")
    assert (await world.device(jid))["logins"] == 2
    assert len(await world.connected(jid=jid, stage="open")) == 1
    assert await salon.me() == jid


@pytest.mark.e2e
@pytest.mark.timeout(240)
async def test_a_stopped_session_is_connected_anew(world: World) -> None:
    await world.gateway()
    salon = await world.open_salon()
    await salon.disconnect()
    await salon.status("stopped")
    await salon.no_owner()
    await world.call(sessions.reconnect, salon.salon, "user:anna")
    await salon.status("open")


@pytest.mark.e2e
@pytest.mark.timeout(240)
async def test_a_link_out_of_the_archive_is_opened(world: World) -> None:
    await world.gateway()
    salon = await world.open_salon()
    jid = await salon.me()
    await salon.disconnect()
    await salon.status("stopped")
    await salon.no_owner()
    entry = await world.call(_archived, salon.salon)
    await salon.ask_qr()
    await salon.qr()
    outcome = await world.call(sessions.restore, salon.salon, "user:anna", entry)
    assert outcome is Restored.STARTED
    state = await salon.status("open")
    assert state["phone"] == salon.phone.number
    assert await salon.me() == jid
    assert await salon.attempts() == [("qr", "superseded", "")]
