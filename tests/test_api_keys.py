"""Keys of the API: who makes them, what is stored and shown of them, how they end."""

import re
from datetime import timedelta
from io import StringIO

import pytest
from django.core.exceptions import PermissionDenied
from django.core.management import CommandError, call_command
from django.db import IntegrityError, transaction
from django.db.models.functions import Now

from aiadmin.scrubber import scrub_text
from tests.admin_world import SUPERUSER, WHO, client_as, client_of, make_user, texts
from tests.api_world import ALL, Program, make_key
from tests.factories import make_salon
from whatsapp.models import ApiKey, AuditEvent, Membership, Salon
from whatsapp.roles import MAY, Action, Role
from whatsapp.services import api_keys

pytestmark = pytest.mark.django_db

LIST = "/admin/whatsapp/apikey/"
FORM = re.compile(r"wak_[a-z0-9]{10}_[\w-]{43}")


def opens(text: str, salon: Salon) -> bool:
    """Say whether a program gets in with a key."""
    answer = Program(text).get(f"/salons/{salon.salon_id}/session")
    return answer.status_code == 200


def form(salon: object = "", name: str = "robot", **fields: object):
    return {
        "name": name,
        "salon": getattr(salon, "salon_id", salon),
        "scopes": ["read"],
        "lifetime": "30",
        **fields,
    }


# --- what is stored -------------------------------------------------------------------


def test_what_is_stored_opens_nothing():
    salon = make_salon()
    key, text = make_key(salon)
    assert FORM.fullmatch(text)
    assert opens(text, salon)
    row = ApiKey.objects.filter(pk=key.pk).values().get()
    secret = text.split("_", 2)[2]
    assert all(secret not in str(value) for value in row.values())
    assert text.startswith(f"wak_{row['prefix']}_")
    for guess in (row["digest"], f"wak_{row['prefix']}_{row['digest'][:43]}"):
        assert not opens(guess, salon)
    detail = AuditEvent.objects.get(action="key_created").detail
    assert secret not in str(detail)


def test_keys_are_never_alike():
    texts_made = {make_key()[1] for _ in range(20)}
    assert len(texts_made) == 20


def test_a_key_is_taken_out_of_logs():
    _key, text = make_key()
    for line in (f"sent {text}", f"Authorization: Bearer {text}", f"['{text}']"):
        assert text.split("_", 2)[2] not in scrub_text(line)
        assert text[:12] not in scrub_text(line)


@pytest.mark.parametrize("scopes", [[], ["write"], ["read", "all"]])
def test_a_key_without_scopes_or_with_unknown_ones_is_not_made(scopes):
    with pytest.raises(ValueError, match="scopes"):
        api_keys.create("command", None, "robot", scopes, None)
    key, _text = make_key()
    with pytest.raises(IntegrityError), transaction.atomic():
        ApiKey.objects.filter(pk=key.pk).update(scopes=scopes)


@pytest.mark.parametrize("name", ["", " x", "x ", "x\n", "<b>", "x" * 101])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(ValueError, match="name"):
        api_keys.create("command", None, name, ["read"], None)


def test_names_are_told_apart_even_of_keys_that_were_revoked():
    one, other = make_salon(), make_salon()
    for salon in (one, other, None):
        key, _text = make_key(salon, name="robot")
        with pytest.raises(ValueError, match="already"):
            make_key(salon, name="robot")
        api_keys.revoke("command", key)
        with pytest.raises(ValueError, match="already"):
            make_key(salon, name="robot")


# --- how they end ---------------------------------------------------------------------


def test_a_key_ends_with_its_time_or_is_revoked_once():
    salon = make_salon()
    key, text = make_key(salon, lifetime=timedelta(days=1))
    assert opens(text, salon)
    ApiKey.objects.filter(pk=key.pk).update(expires_at=Now())
    assert not opens(text, salon)
    ApiKey.objects.filter(pk=key.pk).update(expires_at=None)
    assert opens(text, salon)
    assert api_keys.revoke("user:anna", key)
    assert not opens(text, salon)
    assert not api_keys.revoke("user:boris", key)
    event = AuditEvent.objects.get(action="key_revoked")
    assert (event.actor, event.salon) == ("user:anna", salon)


def test_a_key_goes_with_its_salon():
    salon = make_salon()
    _key, text = make_key(salon)
    salon.delete()
    assert Program(text).get("/sessions").status_code == 401


# --- who makes them -------------------------------------------------------------------


@pytest.mark.parametrize("who", [*WHO, ""])
def test_keys_are_made_by_owners_for_their_salon_and_by_support_for_all(who):
    salon, other = make_salon(), make_salon()
    user = make_user(who, salon)
    role = Role.SUPPORT if who == SUPERUSER else who
    mine = Action.MANAGE_KEYS in MAY[Role(role)] if who else False
    everywhere = role == Role.SUPPORT
    for place, allowed in ((salon, mine), (other, everywhere), (None, everywhere)):
        if allowed:
            key, _text = api_keys.create_by(user, place, "robot", ALL, None)
            assert key.created_by == f"user:{user.username}"
        else:
            with pytest.raises(PermissionDenied):
                api_keys.create_by(user, place, "robot", ALL, None)
    assert ApiKey.objects.filter(salon=salon).exists() == mine


def test_a_key_is_shown_once_and_never_again():
    salon = make_salon()
    user = make_user("owner", salon)
    client = client_of(user)
    offered = client.get(f"{LIST}add/").content.decode()
    assert f'value="{salon.salon_id}"' in offered
    answer = client.post(f"{LIST}add/", form(salon))
    text = FORM.search(answer.content.decode())
    assert text
    assert "no-store" in answer["Cache-Control"]
    assert opens(text[0], salon)
    key = ApiKey.objects.get()
    assert (key.salon, key.scopes) == (salon, ["read"])
    assert key.expires_at is not None
    assert key.expires_at - key.created_at == timedelta(days=30)
    secret = text[0].split("_", 2)[2]
    assert all(secret not in cookie.value for cookie in client.cookies.values())
    for address in (LIST, f"{LIST}{key.pk}/change/", "/admin/whatsapp/auditevent/"):
        page = client.get(address)
        assert page.status_code == 200
        assert "robot" in page.content.decode()
        assert secret not in page.content.decode()
        assert key.digest not in page.content.decode()
    assert client.post(f"{LIST}{key.pk}/change/", form(salon)).status_code == 403


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "<b>"},
        {"name": ""},
        {"scopes": []},
        {"scopes": ["write"]},
        {"lifetime": "31"},
        {"salon": ""},
        {"salon": "roses"},
        {"salon": "{other}"},
        {"salon": "987654321"},
        {"name": "taken"},
    ],
)
def test_a_key_that_makes_no_sense_or_is_for_others_is_not_made(fields):
    salon, other = make_salon(), make_salon()
    make_key(salon, name="taken")
    before = ApiKey.objects.count()
    data = {**form(salon), **fields}
    data["salon"] = str(data["salon"]).format(other=other.salon_id)
    answer = client_as("owner", salon).post(f"{LIST}add/", data)
    assert answer.status_code == 200
    assert not FORM.search(answer.content.decode())
    assert ApiKey.objects.count() == before


def test_a_foreign_salon_is_refused_in_the_words_for_none():
    salon, other = make_salon(), make_salon()
    client = client_as("owner", salon)
    told = [
        texts(client.post(f"{LIST}add/", form(name)).content.decode())
        for name in (other.salon_id, other.salon_id + 900_000)
    ]
    assert "Такого салона нет" in told[0]
    assert told[0] == told[1]


def test_service_keys_are_support_s():
    salon = make_salon()
    answer = client_as("support").post(f"{LIST}add/", form(""))
    text = FORM.search(answer.content.decode())
    assert text
    assert opens(text[0], salon)
    assert ApiKey.objects.get().salon is None


def test_an_owner_sees_and_revokes_the_keys_of_his_salon_only():
    salon, other = make_salon(), make_salon()
    mine, mine_text = make_key(salon, name="mine")
    theirs, theirs_text = make_key(other, name="theirs")
    service, service_text = make_key(None, name="service")
    client = client_as("owner", salon)
    page = client.get(LIST).content.decode()
    assert "mine" in page
    assert "theirs" not in page
    assert "service" not in page
    chosen = [key.pk for key in (mine, theirs, service)]
    client.post(LIST, {"action": "revoke", "_selected_action": chosen})
    assert not opens(mine_text, salon)
    assert opens(theirs_text, other)
    assert opens(service_text, salon)
    assert "mine" in client.get(f"{LIST}?good=no").content.decode()
    assert f"{LIST}{mine.pk}/" not in client.get(f"{LIST}?good=yes").content.decode()


def test_who_may_not_manage_keys_has_no_page_of_them():
    salon = make_salon()
    make_key(salon)
    for who in ("viewer", "staff"):
        client = client_as(who, salon)
        for address in (LIST, f"{LIST}add/"):
            assert client.get(address).status_code == 403
            assert client.post(address, form(salon)).status_code == 403
    assert ApiKey.objects.count() == 1


def test_a_key_outlives_the_role_of_who_made_it():
    salon = make_salon()
    user = make_user("owner", salon)
    _key, text = api_keys.create_by(user, salon, "robot", ["read"], None)
    Membership.objects.all().delete()
    assert opens(text, salon)


# --- the command ----------------------------------------------------------------------


def _run(*words: str) -> tuple[str, str]:
    out, err = StringIO(), StringIO()
    call_command("whatsapp_key", *words, stdout=out, stderr=err, no_color=True)
    return out.getvalue(), err.getvalue()


def test_the_command_makes_lists_and_revokes():
    salon = make_salon()
    words = ("--name", "robot", "--scopes", "read, link", "--days", "7")
    out, err = _run("create", "--salon", salon.session_id, *words)
    text = out.strip()
    assert FORM.fullmatch(text)
    assert text not in err
    assert opens(text, salon)
    listed, _err = _run("list", "--salon", str(salon.salon_id))
    assert "robot: link,read company_" in listed
    assert text[:14] in listed
    assert text not in listed
    assert "is revoked" in _run("revoke", text[:14])[0]
    assert not opens(text, salon)
    assert "was revoked before" in _run("revoke", text)[0]
    assert "revoked" in _run("list")[0]
    assert set(AuditEvent.objects.values_list("actor", flat=True)) == {"command"}


def test_the_command_makes_service_keys():
    salon = make_salon()
    out, err = _run("create", "--service", "--name", "worker", "--scopes", "read")
    assert opens(out.strip(), salon)
    assert "all salons for ever" in err


@pytest.mark.parametrize(
    "words",
    [
        ("create", "--name", "x", "--scopes", "read"),
        ("create", "--salon", "987654321", "--name", "x", "--scopes", "read"),
        ("create", "--service", "--name", "x", "--scopes", "write"),
        ("create", "--service", "--name", "", "--scopes", "read"),
        ("create", "--service", "--name", "x", "--scopes", "read", "--days", "0"),
        ("revoke", "wak_nosuchkey0"),
        ("list", "--salon", "987654321"),
    ],
)
def test_the_command_refuses_what_makes_no_sense(words):
    with pytest.raises(CommandError):
        _run(*words)
    assert not ApiKey.objects.exists()
