"""Salons: made, found, and fetched through whoever asks."""

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.db import IntegrityError, transaction

from tests.factories import make_salon
from whatsapp.models import Membership, Salon
from whatsapp.services import salons

pytestmark = pytest.mark.django_db


# --- promises of the database ---------------------------------------------------------


def test_a_salon_has_a_positive_number_of_its_own():
    salon = make_salon()
    for fields in (
        {"salon_id": 0},
        {"salon_id": salon.salon_id},
        {"expected_phone": "+7"},
    ):
        with pytest.raises(IntegrityError), transaction.atomic():
            Salon.objects.create(**{"salon_id": 987_654, "title": "", **fields})


# --- salons ---------------------------------------------------------------------------


def test_a_salon_is_made_once_and_renamed_after():
    salon = salons.create(55, "Ромашка")
    assert salons.create(55, "Роза") == salon
    assert Salon.objects.get().title == "Роза"
    with pytest.raises(ValueError, match="positive"):
        salons.create(0, "x")


@pytest.mark.parametrize("name", ["55", "company_55", " 55 ", "0055"])
def test_a_salon_is_found_by_both_of_its_names(name):
    salon = salons.create(55, "Ромашка")
    assert salons.find(name) == salon


@pytest.mark.parametrize(
    "name", ["", "56", "company_", "company_x", "x55", "5" * 30, "55\n56"]
)
def test_a_name_that_is_no_salon_finds_none(name):
    salons.create(55, "Ромашка")
    with pytest.raises(Salon.DoesNotExist):
        salons.find(name)


def test_salons_are_fetched_through_whoever_asks():
    ours, theirs = make_salon(), make_salon()
    member = User.objects.create_user("member")
    Membership.objects.create(user=member, salon=ours)
    assert list(Salon.objects.for_user(member)) == [ours]
    assert set(Salon.objects.for_user(User.objects.create_superuser("root"))) == {
        ours,
        theirs,
    }
    assert not Salon.objects.for_user(User.objects.create_user("stranger")).exists()
    assert not Salon.objects.for_user(AnonymousUser()).exists()
    with pytest.raises(IntegrityError), transaction.atomic():
        Membership.objects.create(user=member, salon=ours)
