"""The token that opens a salon's page, and everything that is not one."""

import time

import jwt
import pytest

from tests.factories import make_salon
from whatsapp.errors import ErrorCode, WhatsAppError
from whatsapp.services import tokens

pytestmark = pytest.mark.django_db


def _claims(salon, **changes):
    now = int(time.time())
    claims = {
        "company_id": 15,
        "salon_id": salon.salon_id,
        "company_title": "Ромашка",
        "type": "marketplace_registration",
        "user_data": {"user_id": 1, "user_name": "Анна"},
        "iat": now,
        "exp": now + 3600,
        **changes,
    }
    return {name: value for name, value in claims.items() if value is not None}


def _signed(settings, claims, secret=None, algorithm="HS256"):
    return jwt.encode(claims, secret or settings.MARKETPLACE_JWT_SECRET, algorithm)


def _refusal(token):
    with pytest.raises(WhatsAppError) as refused:
        tokens.verify(token)
    return refused.value.code


def test_a_token_of_the_marketplace_opens_its_salon(settings):
    salon = make_salon()
    claims = _claims(salon, language="en")
    grant = tokens.verify(_signed(settings, claims))
    assert (grant.salon, grant.language) == (salon, "en")
    assert grant.expires_at == claims["exp"]


def test_our_own_token_opens_its_salon():
    salon = make_salon()
    grant = tokens.verify(tokens.issue(salon))
    assert (grant.salon, grant.language) == (salon, "")
    assert grant.expires_at == pytest.approx(time.time() + 3600, abs=5)


def test_a_salon_id_may_be_written_as_text(settings):
    salon = make_salon()
    claims = _claims(salon, salon_id=str(salon.salon_id))
    assert tokens.verify(_signed(settings, claims)).salon == salon


def test_a_marketplace_whose_clock_is_ahead_is_understood(settings):
    salon = make_salon()
    claims = _claims(salon, iat=int(time.time()) + 30)
    assert tokens.verify(_signed(settings, claims)).salon == salon


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": 1},
        {"exp": None},
        {"exp": "soon"},
        {"nbf": int(time.time()) + 600},
        {"type": None},
        {"type": "admin"},
        {"company_id": None},
        {"company_id": 0},
        {"salon_id": None},
        {"salon_id": 0},
        {"salon_id": -5},
        {"salon_id": True},
        {"salon_id": 2**63},
        {"salon_id": "7 OR 1=1"},
        {"salon_id": "9" * 30},
        {"salon_id": [7]},
        {"aud": "somebody else"},
    ],
)
def test_a_token_with_wrong_or_missing_claims_is_refused(settings, changes):
    token = _signed(settings, _claims(make_salon(), **changes))
    assert _refusal(token) is ErrorCode.UNAUTHORIZED


def test_a_forged_token_is_refused(settings):
    claims = _claims(make_salon())
    forged = _signed(settings, claims, secret="some other secret of the right length")
    assert _refusal(forged) is ErrorCode.UNAUTHORIZED
    unsigned = jwt.encode(claims, "", algorithm="none")
    assert _refusal(unsigned) is ErrorCode.UNAUTHORIZED
    valid = _signed(settings, claims)
    assert _refusal(valid[:-3] + "abc") is ErrorCode.UNAUTHORIZED


def test_another_algorithm_is_refused_even_with_our_secret(settings):
    secret = settings.MARKETPLACE_JWT_SECRET * 2
    settings.MARKETPLACE_JWT_SECRET = secret
    token = _signed(settings, _claims(make_salon()), algorithm="HS512")
    assert _refusal(token) is ErrorCode.UNAUTHORIZED


@pytest.mark.parametrize("token", [None, "", "x", "a.b.c", 5, b"abc", {}, "я" * 40])
def test_what_is_no_token_is_refused(token):
    assert _refusal(token) is ErrorCode.UNAUTHORIZED


def test_a_salon_that_is_not_here_is_forbidden(settings):
    token = _signed(settings, _claims(make_salon(), salon_id=999_999_999))
    assert _refusal(token) is ErrorCode.FORBIDDEN


def test_an_unknown_language_is_none(settings):
    for language in ("de", 5, ["ru"]):
        token = _signed(settings, _claims(make_salon(), language=language))
        assert tokens.verify(token).language == ""
