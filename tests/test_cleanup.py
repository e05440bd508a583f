"""What means nothing any more goes; whatever may still mean something stays."""

import json
import time
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db.models.functions import Now

from tests import factories
from tests.previous_service import creds, leave_auth, leave_keys
from whatsapp.models import (
    ArchivedCredentials,
    AuditEvent,
    Gateway,
    PairingAttempt,
    Salon,
    StatusChange,
    WhatsAppAuth,
    WhatsAppKey,
)
from whatsapp.services import cleanup, credentials, pairing, sessions

pytestmark = pytest.mark.django_db


def _run(*words: str) -> str:
    out = StringIO()
    call_command("whatsapp_cleanup", *words, stdout=out, no_color=True)
    return out.getvalue()


def _report(*words: str) -> dict[str, Any]:
    return {one["kind"]: one for one in json.loads(_run("--json", *words))}


def _ids() -> tuple[set[str], set[str]]:
    return (
        set(WhatsAppAuth.objects.values_list("company_id", flat=True)),
        set(WhatsAppKey.objects.values_list("company_id", flat=True)),
    )


def _archive(salon: Salon, over: bool) -> None:
    factories.store_creds(salon)
    with sessions.locked(salon):
        credentials.archive(salon, "replaced")
    if over:
        entries = ArchivedCredentials.objects.filter(salon=salon)
        entries.update(
            archived_at=Now() - timedelta(days=40), purge_at=Now() - timedelta(days=1)
        )


def _leave_everything() -> None:
    """Leave two of each kind: one that means nothing, and one like it that does."""
    half = factories.make_salon(11)
    factories.store_creds(half, factories.make_creds(linked=False))
    linked = factories.make_salon(12)
    factories.store_creds(linked)
    leave_auth("13", creds(linked=False))
    leave_keys("13", 3)
    leave_auth("14", creds("79110000014"))
    leave_keys("14", 3)
    factories.make_salon(15)
    leave_keys("company_15", 4)
    leave_keys("company_16", 5)
    leave_keys("demo", 6)
    # Its keys lie under its other id: whatsapp_takeover brings them together.
    leave_auth("company_17", creds("79110000017"))
    leave_keys("17", 7)
    week = 7 * 24 * 3600
    for name, age in (("old", 5 * week), ("new", 0)):
        WhatsAppKey.objects.create(
            company_id=linked.session_id,
            key_type="tctoken",
            key_id=name,
            value={"timestamp": str(int(time.time()) - age)},
        )
    _archive(factories.make_salon(18), over=True)
    _archive(factories.make_salon(19), over=False)
    StatusChange.objects.all().delete()
    for days in (100, 10):
        change = StatusChange.objects.create(salon=linked, status="open")
        StatusChange.objects.filter(pk=change.pk).update(
            at=Now() - timedelta(days=days)
        )
    for name, days in (("long-lost", 8), ("just-lost", 1)):
        Gateway.objects.create(name=name, seen_at=Now() - timedelta(days=days))


def test_each_kind_goes_and_what_is_like_it_stays():
    _leave_everything()
    report = _report()
    deleted = {name: one["deleted"] for name, one in report.items()}
    assert deleted == {
        "half_paired": 11,
        "foreign_half_paired": 4,
        "orphaned_keys": 4,
        "foreign_orphaned_keys": 11,
        "expired_tokens": 1,
        "archive": 1,
        "status_changes": 1,
        "lost_gateways": 1,
    }
    assert _ids() == (
        {"company_12", "14", "company_17"},
        {"company_12", "14", "17"},
    )
    tokens = WhatsAppKey.objects.filter(key_type="tctoken")
    assert set(tokens.values_list("key_id", flat=True)) == {
        f"{factories.PHONE}@s.whatsapp.net",
        "new",
    }
    assert ArchivedCredentials.objects.get().salon.salon_id == 19
    assert Gateway.objects.get().name == "just-lost"
    assert StatusChange.objects.count() == 1
    event = AuditEvent.objects.get(action="phone_mismatch_cleanup")
    assert (event.actor, event.salon and event.salon.salon_id) == ("command", 11)
    assert "There is nothing to delete." in _run()


def test_a_dry_run_says_kind_number_and_ids_and_deletes_nothing():
    _leave_everything()
    before = _ids()
    report = _report("--dry-run")
    assert report["foreign_orphaned_keys"] == {
        "kind": "foreign_orphaned_keys",
        "found": 11,
        "company_ids": ["company_16", "demo"],
    }
    assert report["half_paired"]["company_ids"] == ["company_11"]
    told = _run("--dry-run")
    assert "11  creds that no phone confirmed, with their keys: company_11\n" in told
    assert "4  keys of salons that have no creds: company_15\n" in told
    assert "1  gateways lost more than 7 days ago\n" in told
    assert told.endswith("Nothing was deleted.\n")
    assert _ids() == before
    assert ArchivedCredentials.objects.count() == 2
    assert Gateway.objects.count() == 2


def test_half_paired_creds_that_somebody_uses_stay():
    owned, asking = factories.make_salon(), factories.make_salon()
    factories.claim(owned)
    pairing.request_qr(asking, "page")
    for salon in (owned, asking):
        factories.store_creds(salon, factories.make_creds(linked=False), keys={})
    assert _run() == "There is nothing to delete.\n"
    assert len(_ids()[0]) == 2


def test_half_paired_creds_that_somebody_begins_to_use_stay():
    owned, asking = factories.make_salon(), factories.make_salon()
    for salon in (owned, asking):
        factories.store_creds(salon, factories.make_creds(linked=False), keys={})
    (kind,) = (one for one in cleanup.kinds() if one.rows)
    factories.claim(owned)
    PairingAttempt.objects.create(
        salon=asking, kind="qr", deadline=Now() + timedelta(minutes=1)
    )
    assert list(kind.delete("command")) == []
    assert len(_ids()[0]) == 2


@pytest.mark.parametrize("company_id", ["company_21", "22"])
def test_what_is_linked_by_the_time_that_it_would_go_stays(company_id: str):
    factories.make_salon(21)
    leave_auth(company_id, creds(linked=False))
    leave_keys(company_id, 3)
    kinds = cleanup.kinds()
    assert sum(kind.rows for kind in kinds) == 4
    WhatsAppAuth.objects.filter(company_id=company_id).update(creds=creds())
    assert [list(kind.delete("command")) for kind in kinds if kind.ids] == [[]]
    assert WhatsAppKey.objects.count() == 3


@pytest.mark.parametrize("company_id", ["company_21", "22"])
def test_keys_whose_creds_have_come_back_stay(company_id: str):
    factories.make_salon(21)
    leave_keys(company_id, 3)
    kinds = cleanup.kinds()
    leave_auth(company_id, creds())
    assert [sum(kind.delete("command")) for kind in kinds if kind.ids] == [0]
    assert WhatsAppKey.objects.count() == 3


def test_it_can_be_interrupted_and_run_again(monkeypatch: pytest.MonkeyPatch):
    for number in range(31, 35):
        leave_keys(f"company_{number}", 2)
    kinds = cleanup.kinds

    def interrupted() -> list[cleanup.Kind]:
        found = kinds()
        (kind,) = (one for one in found if one.name == "foreign_orphaned_keys")
        delete = kind.delete

        def stop_half_way(actor: str) -> Any:
            batches = delete(actor)
            yield next(batches)
            yield next(batches)
            raise KeyboardInterrupt

        kind.delete = stop_half_way
        return found

    with monkeypatch.context() as patch:
        patch.setattr(cleanup, "kinds", interrupted)
        with pytest.raises(CommandError, match="4 of 8 rows") as stopped:
            _run()
    assert stopped.value.returncode == 130
    assert _ids()[1] == {"company_33", "company_34"}
    assert "4  keys without creds" in _run()
    assert _ids()[1] == set()


class Terminal(StringIO):
    """A terminal, as far as anybody asks."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_is_shown_how_far_it_is():
    leave_keys("company_16", 5)
    leave_keys("demo", 5)
    screen = Terminal()
    call_command("whatsapp_cleanup", stdout=StringIO(), stderr=screen, no_color=True)
    lines = screen.getvalue().split("\r")
    assert [line.split("] ")[1] for line in lines if line] == [
        "0/10",
        "5/10",
        "10/10\n",
    ]
    assert lines[-1].count("#") == 30
