"""What is sealed opens for its own salon, in its own place, with its own key only."""

import json

import pytest
from django.db import IntegrityError, connection, transaction
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import factories
from whatsapp.models import CredsIndex, WhatsAppAuth
from whatsapp.services import claims, credentials, encryption, sealing
from whatsapp.services.sealing import Forged, KeyMissing

A, B = sealing.new_key(), sealing.new_key()

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: st.lists(inner) | st.dictionaries(st.text("abc", max_size=3), inner),
    max_leaves=10,
)


@pytest.fixture(autouse=True)
def key(settings):
    settings.CREDENTIAL_ENCRYPTION_KEYS = [A]


def _keys(entries):
    return json.dumps([{"t": t, "i": i, "v": v} for t, i, v in entries])


def _sealed(value, key_type="session", key_id="1", company_id="company_7"):
    (entry,) = json.loads(
        sealing.seal_keys(company_id, _keys([(key_type, key_id, value)]))
    )
    return entry["v"]


def _opened(value, key_type="session", key_id="1", company_id="company_7"):
    stored = json.dumps({key_id: value})
    return json.loads(sealing.unseal_keys_of(company_id, key_type, stored))[key_id]


@given(values=st.lists(VALUES.filter(lambda value: value is not None)))
def test_every_value_comes_back_and_nothing_of_it_is_seen(values):
    entries = [("session", str(number), value) for number, value in enumerate(values)]
    stored = sealing.seal_keys("company_7", _keys(entries))
    for entry in json.loads(stored):
        assert set(entry["v"]) == {"sealed", "kid", "data"}
    assert json.loads(sealing.unseal_keys("company_7", stored)) == json.loads(
        _keys(entries)
    )


def test_a_deletion_stays_one_and_what_is_sealed_is_not_sealed_again():
    stored = _keys([("session", "1", None), ("session", "2", _sealed({"n": 1}))])
    assert json.loads(sealing.seal_keys("company_7", stored)) == json.loads(stored)


def test_the_same_value_never_looks_the_same():
    assert _sealed({"n": 1}) != _sealed({"n": 1})


@pytest.mark.parametrize(
    "place",
    [
        {"company_id": "company_8"},
        {"key_type": "pre-key"},
        {"key_id": "2"},
        {"key_type": "session1", "key_id": ""},
    ],
)
def test_a_row_in_place_of_another_opens_nothing(place):
    with pytest.raises(Forged):
        _opened(_sealed({"n": 1}), **place)


def test_creds_do_not_open_as_a_key_nor_for_another_salon():
    stored = sealing.seal_creds("company_7", '{"me": 1}')
    assert sealing.unseal_creds("company_7", stored) == '{"me": 1}'
    with pytest.raises(Forged):
        sealing.unseal_creds("company_8", stored)
    with pytest.raises(Forged):
        _opened(json.loads(stored))


def test_both_names_of_a_salon_open_the_same():
    stored = sealing.seal_creds("7", '{"me": 1}')
    assert sealing.unseal_creds("company_7", stored) == '{"me": 1}'


@given(data=st.data())
def test_what_was_touched_does_not_open(data):
    sealed = _sealed({"privKey": "x" * 42})  # no bits of base64 to spare
    text = sealed["data"]
    at = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(
        st.sampled_from("ABCDabcd0123+/= !").filter(lambda c: c != text[at])
    )
    changed = text[:at] + other + text[at + 1 :]
    with pytest.raises(Forged):
        _opened({**sealed, "data": changed})


@pytest.mark.parametrize("broken", [{"data": None}, {"data": ""}, {"data": "AAAA"}])
def test_what_is_no_sealed_value_any_more_is_said_to_be_damaged(broken):
    with pytest.raises(Forged):
        _opened({**_sealed(1), **broken})


def test_a_second_key_opens_and_the_first_one_seals(settings):
    old = _sealed({"n": 1})
    settings.CREDENTIAL_ENCRYPTION_KEYS = [B, A]
    assert _opened(old) == {"n": 1}
    assert _sealed({"n": 1})["kid"] == sealing.current_kid() != old["kid"]


@pytest.mark.parametrize("keys", [[], [B]])
def test_without_its_key_it_says_which_one_is_missing(settings, keys):
    sealed = _sealed({"n": 1})
    settings.CREDENTIAL_ENCRYPTION_KEYS = keys
    with pytest.raises(KeyMissing, match=sealed["kid"]):
        _opened(sealed)


def test_without_keys_everything_stays_as_it_is(settings):
    settings.CREDENTIAL_ENCRYPTION_KEYS = []
    keys = _keys([("session", "1", {"a": 1})])
    assert sealing.seal_keys("company_7", keys) is keys
    assert sealing.seal_creds("company_7", "{}") == "{}"


def test_the_id_of_a_key_does_not_tell_the_key():
    assert sealing.current_kid() not in A
    assert len(sealing.current_kid()) == 8


# --- what is known of creds without opening them --------------------------------------

JIDS = st.sampled_from(
    [
        *(None, "", "79001234567:5@s.whatsapp.net", "79001234567@s.whatsapp.net"),
        *("7900:5@s.whatsapp.net", "79001234567:5@lid", "79001234567:5@sXwhatsappXnet"),
        *("79001234567:5@s.whatsapp.net\n", "٧٩٠٠١٢٣٤٥٦٧:5@s.whatsapp.net", "x:1@y"),
    ]
) | st.from_regex(r"\A[0-9]{5,17}(:[0-9]{0,3})?@(s\.whatsapp\.net|[a-z.]{1,9})\Z")
CREDS = st.fixed_dictionaries(
    {},
    optional={
        "me": st.none() | st.fixed_dictionaries({}, optional={"id": JIDS}),
        "account": st.none() | st.just({}) | st.just({"details": "x"}) | st.just("x"),
        "registrationId": st.none() | st.integers(0, 16383),
        "advSecretKey": st.none() | st.text("AB+/=", max_size=5),
        "noiseKey": VALUES,
    },
)


@pytest.mark.django_db
@settings(max_examples=400)
@given(creds=CREDS)
def test_the_trigger_and_the_program_judge_creds_alike(creds):
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT state, jid, device FROM whatsapp_identify(%s::jsonb)",
            [json.dumps(creds)],
        )
        judged = cursor.fetchone()
    identity = credentials.identify(json.dumps(creds))
    assert (identity.state.value, identity.jid, identity.device) == judged


@pytest.mark.django_db
def test_the_index_follows_the_rows():
    salon = factories.make_salon()
    auth = WhatsAppAuth(company_id=salon.session_id, creds={"me": {"id": "79001"}})
    auth.save()

    def indexed():
        return list(CredsIndex.objects.values_list("company_id", "state", "jid"))

    assert indexed() == [(salon.session_id, "half-paired", "79001")]
    WhatsAppAuth.objects.update(creds=factories.make_creds(device=9))
    assert indexed() == [
        (salon.session_id, "linked", f"{factories.PHONE}:9@s.whatsapp.net")
    ]
    WhatsAppAuth.objects.update(company_id="company_42")
    assert [row[0] for row in indexed()] == ["company_42"]
    WhatsAppAuth.objects.all().delete()
    assert indexed() == []


@pytest.mark.django_db
def test_rows_that_came_past_the_trigger_are_found_and_not_taken_for_nothing():
    salon = factories.make_salon()
    factories.store_creds(salon)
    CredsIndex.objects.all().delete()  # as after pg_restore --disable-triggers
    assert credentials.stored(salon).linked
    assert CredsIndex.objects.get().state == "linked"


@pytest.mark.django_db
def test_a_gateway_that_starts_finds_them():
    salon = factories.make_salon()
    factories.store_creds(salon)
    CredsIndex.objects.all().delete()
    assert claims.candidates(10) == []
    encryption.welcome_gateway()
    assert claims.candidates(10) == [salon.pk]


@pytest.mark.django_db
def test_nobody_stores_sealed_creds_that_nobody_could_find():
    creds = json.loads(sealing.seal_creds("company_7", "{}"))
    with pytest.raises(IntegrityError, match="not indexed"), transaction.atomic():
        WhatsAppAuth.objects.create(company_id="company_7", creds=creds)
