"""What the previous service left becomes ours: every link is kept, nothing twice."""

import json
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone

from tests import factories, previous_service
from tests.previous_service import (
    LONG_AGO,
    add_companies,
    creds,
    leave,
    leave_auth,
    leave_keys,
)
from tests.sealed import opened_creds, opened_key
from whatsapp.models import (
    ArchivedCredentials,
    AuditEvent,
    Salon,
    WhatsAppAuth,
    WhatsAppKey,
    WhatsAppSession,
)
from whatsapp.services import credentials, pairing, sessions, takeover

pytestmark = pytest.mark.django_db

LATER = LONG_AGO + timedelta(days=1)


def _run(*words: str) -> str:
    out = StringIO()
    call_command("whatsapp_takeover", *words, stdout=out, no_color=True)
    return out.getvalue()


def _report(*words: str) -> dict[str, Any]:
    return json.loads(_run("--json", *words))


def _tables() -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT company_id, '', '', creds::text, updated_at, NULL FROM whatsapp_auth"
            " UNION ALL SELECT company_id, key_type, key_id, value::text, updated_at,"
            " expires_at FROM whatsapp_keys ORDER BY 1, 2, 3"
        )
        return cursor.fetchall()


def _registration(company_id: str) -> int | None:
    row = WhatsAppAuth.objects.filter(company_id=company_id).first()
    return opened_creds(company_id, row.creds)["registrationId"] if row else None


def _marks(company_id: str) -> dict[tuple[str, str], str]:
    rows = WhatsAppKey.objects.filter(company_id=company_id)
    return {
        (row.key_type, row.key_id): opened_key(
            company_id, row.key_type, row.key_id, row.value
        )["of"]
        for row in rows
    }


def _session(salon_id: int) -> WhatsAppSession:
    return WhatsAppSession.objects.get(salon__salon_id=salon_id)


# --- every kind of row ----------------------------------------------------------------


@pytest.mark.parametrize("form", previous_service.FORMS)
def test_a_link_under_a_bare_number_becomes_a_salon_of_ours(form: str):
    old = creds("79110004217", form=form)
    leave_auth("4217", old)
    leave_keys("4217", 40, form=form)
    values = {row[1:4] for row in _tables()}
    _run()
    salon = Salon.objects.get(salon_id=4217)
    assert credentials.stored(salon).phone == "79110004217"
    assert {row[1:4] for row in _tables()} == values  # not rewritten
    assert {row[0] for row in _tables()} == {"company_4217"}
    assert not WhatsAppKey.objects.exclude(expires_at=None).exists()
    session = salon.session
    assert (session.status, session.phone) == ("connecting", "79110004217")
    assert session.wanted
    event = AuditEvent.objects.get(action="taken_over")
    assert (event.salon, event.actor) == (salon, "command")
    assert event.detail["moved"] == "4217"
    assert "79110004217" not in json.dumps(event.detail)


@pytest.mark.parametrize("newer", ["4217", "company_4217"])
def test_of_two_links_the_newer_is_kept_and_the_older_archived(newer: str):
    for company_id in ("4217", "company_4217"):
        at = LATER if company_id == newer else LONG_AGO
        leave_auth(company_id, creds("79110004217"), at)
        # Some of the same ids, and some that the other has not.
        first = 0 if company_id == newer else 6
        leave_keys(company_id, 12, written_at=at, first=first)
    kept = _registration(newer)
    _run()
    assert _registration("company_4217") == kept
    assert _registration("4217") is None
    assert set(_marks("company_4217").values()) == {newer}  # none of the other link
    assert not _marks("4217")
    salon = Salon.objects.get(salon_id=4217)
    entry = ArchivedCredentials.objects.get(salon=salon)
    assert (entry.reason, entry.phone) == ("duplicate", "79110004217")
    # And it can be brought back, keys and all.
    credentials.erase(salon)
    with sessions.locked(salon):
        assert credentials.put_back(salon, "operator", entry)
    assert _registration("company_4217") not in (None, kept)
    assert len(_marks("company_4217")) == 12


def test_of_two_copies_of_one_link_the_newer_of_each_key_is_kept():
    link = creds("79110004217")
    leave_auth("company_4217", link, LATER)
    leave_auth("4217", link, LONG_AGO)
    leave_keys("company_4217", 8, mark="own", written_at=LATER)
    leave_keys("4217", 4, mark="older", written_at=LONG_AGO)  # ids 1 to 4, again
    leave_keys("4217", 4, mark="more", written_at=LONG_AGO, first=8)  # 9 to 12
    # The same id, of another type, is another key.
    WhatsAppKey.objects.create(
        company_id="4217",
        key_type="sender-key",
        key_id="1",
        value={"of": "type"},
        updated_at=LONG_AGO,
    )
    newer = WhatsAppKey.objects.filter(company_id="4217", key_id="2")
    newer.update(updated_at=LATER + timedelta(hours=1), value={"of": "newer"})
    _run()
    marks = _marks("company_4217")
    assert len(marks) == 13
    by_id = {key_id: mark for (_type, key_id), mark in marks.items() if mark != "type"}
    assert [by_id[str(n)] for n in (1, 2, 3, 9)] == ["own", "newer", "own", "more"]
    assert marks["sender-key", "1"] == "type"
    assert ArchivedCredentials.objects.count() == 1


def test_a_link_wins_over_newer_creds_that_no_phone_confirmed():
    leave_auth("4217", creds("79110004217"), LONG_AGO)
    leave_keys("4217", 8)
    leave_auth("company_4217", creds("79110009999", linked=False), LATER)
    leave_keys("company_4217", 8)
    _run()
    salon = Salon.objects.get(salon_id=4217)
    assert credentials.stored(salon).phone == "79110004217"
    assert set(_marks("company_4217").values()) == {"4217"}


def test_keys_that_lie_beside_their_creds_under_the_other_id_are_found():
    leave_auth("company_4217", creds("79110004217"))
    leave_keys("4217", 8)
    _run()
    assert len(_marks("company_4217")) == 8
    assert _session(4217).epoch == 1


def test_keys_of_nobody_knows_which_link_are_not_mixed_with_those_of_a_link():
    leave_auth("4217", creds("79110004217"))
    leave_keys("4217", 8)
    leave_keys("company_4217", 20)
    leave_auth("company_4218", creds("79110004218"))
    leave_keys("company_4218", 8)
    leave_keys("4218", 20)
    _run()
    assert set(_marks("company_4217").values()) == {"4217"}
    assert set(_marks("company_4218").values()) == {"company_4218"}
    assert len(_marks("4218")) == 20  # in nobody's way


def test_what_no_phone_confirmed_and_ids_of_nobody_are_told_and_left_alone():
    leave_auth("company_1", creds(linked=False))
    leave_auth("2", creds(linked=False))
    leave_keys("company_3", 5)
    leave_auth("[object Object]", creds())
    leave_auth("company_007", creds("79110000007"))
    before = _tables()
    report = _report()
    assert report["half_paired"] == ["2", "company_1"]
    assert report["keys_without_creds"] == {"company_3": 5}
    assert set(report["foreign_linked"]) == {"[object Object]", "company_007"}
    assert report["taken_over"] == 0
    assert _tables() == before
    assert not Salon.objects.exists()
    assert "WARNING: linked creds lie under" in _run()


def test_titles_come_from_the_marketplace_s_table():
    for number in (1, 2, 3, 4):
        leave_auth(f"company_{number}", creds(f"7911000000{number}"))
    factories.make_salon(2, title="Salon 2")  # as the migration named it
    factories.make_salon(3, title="Наш")
    add_companies(
        (1, 1, "Роза", "active"),
        (None, 2, "Лилия", "active"),
        (3, 3, "Чужой", "active"),
        (4, 4, "", "active"),
        (4, 4, "Астра", "uninstalled"),
    )
    _run()
    titles = dict(Salon.objects.values_list("salon_id", "title"))
    assert titles == {1: "Роза", 2: "Лилия", 3: "Наш", 4: "Астра"}


def test_a_salon_that_has_uninstalled_is_kept_and_not_connected():
    leave_auth("1", creds("79110000001"))
    leave_auth("company_2", creds("79110000002"))
    add_companies(
        (1, 1, "Роза", "uninstalled"),
        (2, 2, "Лилия", "uninstalled"),
        (2, 2, "Лилия", "active"),  # and has come back
    )
    assert "have uninstalled" in _run()
    assert credentials.stored(Salon.objects.get(salon_id=1)).linked
    assert (_session(1).status, _session(1).wanted) == ("stopped", False)
    assert (_session(2).status, _session(2).wanted) == ("connecting", True)
    # Whoever connects it afterwards has decided otherwise.
    sessions.connect(Salon.objects.get(salon_id=1), "staff")
    _run()
    assert _session(1).wanted


def test_a_salon_that_somebody_uses_is_not_touched():
    running = factories.make_salon(1)
    linking = factories.make_salon(2)
    factories.store_creds(running, creds("79110000001"))
    factories.claim(running)
    pairing.request_qr(linking, "page")
    leave_keys("company_1", 5, first=50)
    leave_auth("1", creds("79110000011"), timezone.now() + timedelta(days=1))
    leave_auth("2", creds("79110000002"))
    before = _tables()
    report = _report()
    assert _tables() == before
    assert {one["salon_id"] for one in report["salons"] if one["in_use"]} == {1, 2}
    assert "in use and left alone: 2 (1, 2)" in _run()


def test_a_salon_that_is_claimed_after_the_survey_is_not_touched():
    salon = factories.make_salon(1)
    leave_auth("1", creds("79110000001"))
    (case,) = takeover.survey().to_do
    factories.claim(salon)
    before = _tables()
    assert takeover.carry_out(case, "command") == takeover.Outcome.IN_USE
    assert _tables() == before


def test_what_a_restarted_gateway_would_load_is_fenced_from_what_was():
    salon = factories.make_salon(1)
    leave_auth("1", creds("79110000001"))
    leave_keys("1", 3)
    epoch = factories.claim(salon)
    WhatsAppSession.objects.update(owner="")
    _run()
    assert _session(1).epoch > epoch


def test_a_previous_service_that_still_runs_is_noticed():
    leave_auth("company_1", creds())
    leave_keys("company_1", 3, written_at=timezone.now())
    report = _report("--dry-run")
    assert report["recently_written_keys"] == 3
    assert "WARNING: 3 keys were written by the previous service" in _run("--dry-run")


def test_one_link_in_two_salons_is_told():
    link = creds()
    leave_auth("company_1", link)
    leave_auth("2", link)
    assert _report()["shared_links"] == [[1, 2]]
    # After the takeover, too.
    assert "salons 1, 2 have the same link" in _run("--dry-run")


def test_tables_with_copies_of_secrets_are_named():
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE whatsapp_auth_backup_20251204 (creds jsonb)")
    assert "whatsapp_auth_backup_20251204 hold copies of secrets" in _run()


# --- all at once ----------------------------------------------------------------------


def test_a_dry_run_changes_nothing_and_says_what_would_happen():
    left = leave(50, 1000)
    before = _tables()
    report = _report("--dry-run")
    assert _tables() == before
    assert not Salon.objects.exists()
    assert not AuditEvent.objects.exists()
    assert report["linked_salons"] == len(left.linked)
    assert sum("new" in one for one in report["salons"]) == len(left.linked)
    told = _run("--dry-run")
    assert "Nothing was changed; 40 salons would be." in told
    assert "become salons: 40" in told
    for secret in ("7911", "advSecretKey", "noiseKey"):
        assert secret not in told
        assert secret not in json.dumps(report)


def test_every_link_of_a_large_database_is_kept_and_again_there_is_nothing_to_do():
    left = leave(300, 20_000)
    assert WhatsAppKey.objects.count() == left.keys > 19_000
    assert f"Taken over: {len(left.linked)}." in _run()
    linked = {
        salon.salon_id
        for salon in Salon.objects.all()
        if credentials.stored(salon).linked
    }
    assert linked == left.linked
    kept = {number: _registration(f"company_{number}") for number in left.linked}
    assert kept == left.newest
    # Two of the ten kinds have two links.
    assert ArchivedCredentials.objects.filter(reason="duplicate").count() == 60
    assert set(WhatsAppSession.objects.values_list("status", flat=True)) == {
        "connecting"
    }
    dated = WhatsAppKey.objects.exclude(expires_at=None)
    assert not dated.filter(company_id__in=[f"company_{n}" for n in linked]).exists()
    before = _tables()
    assert "Taken over: 0." in _run()
    assert _tables() == before


def test_it_can_be_interrupted_and_run_again(monkeypatch: pytest.MonkeyPatch):
    left = leave(20, 200)
    done = []
    change_rows = takeover._change_rows

    def interrupted(*args: Any) -> Any:
        changed = change_rows(*args)
        done.append(changed)
        if len(done) == 5:  # in the middle of a salon
            raise KeyboardInterrupt
        return changed

    with monkeypatch.context() as patch:
        patch.setattr(takeover, "_change_rows", interrupted)
        with pytest.raises(CommandError, match="4 of 16 salons") as stopped:
            _run()
    assert stopped.value.returncode == 130
    assert Salon.objects.count() == 4
    assert "Taken over: 12." in _run()
    kept = {number: _registration(f"company_{number}") for number in left.linked}
    assert kept == left.newest
