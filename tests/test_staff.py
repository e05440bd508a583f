"""Who may give, change and take which role; what a role means at which salon."""

import pytest
from django.contrib.auth.models import AnonymousUser, User
from django.core.exceptions import PermissionDenied
from django.db import IntegrityError, transaction

from tests.admin_world import SUPERUSER, WHO, make_user
from tests.factories import make_salon
from whatsapp.models import AuditEvent, Membership, Salon
from whatsapp.roles import MAY, Action, Role
from whatsapp.services import staff

pytestmark = pytest.mark.django_db

GRANTERS = (Role.SUPPORT, SUPERUSER)


def _events() -> list[tuple[str, int | None, dict[str, str]]]:
    rows = AuditEvent.objects.order_by("id")
    return [(event.action, event.salon_id, event.detail) for event in rows]


@pytest.mark.parametrize("who", WHO)
def test_a_role_counts_at_its_salon_and_nowhere_else(who):
    salon, other = make_salon(), make_salon()
    user = make_user(who, salon)
    everywhere = who in GRANTERS
    expected = MAY[Role.SUPPORT] if everywhere else MAY[Role(who)]
    assert staff.may(user, salon) == expected
    assert staff.may(user, other) == (expected if everywhere else frozenset())
    assert staff.may_somewhere(user) == expected
    assert staff.is_support(user) == everywhere
    assert staff.may_enter(user)
    for action in Action:
        seen = set(Salon.objects.for_user(user, action))
        assert (salon in seen) == (action in expected), action
        assert (other in seen) == (everywhere and action in expected), action


@pytest.mark.parametrize("who", WHO)
def test_who_is_not_active_may_nothing(who):
    salon = make_salon()
    user = make_user(who, salon)
    user.is_active = False
    user.save()
    for nobody in (user, AnonymousUser()):
        assert not staff.may_enter(nobody)
        assert not staff.is_support(nobody)
        assert staff.may(nobody, salon) == staff.may_somewhere(nobody) == frozenset()
        assert not Salon.objects.for_user(nobody).exists()


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("role", list(Role))
def test_nobody_gives_more_than_he_has(who, role):
    salon, user = make_salon(), make_user()
    by = make_user(who, salon)
    place = None if role == Role.SUPPORT else salon
    allowed = who == SUPERUSER or (who in GRANTERS and role != Role.SUPPORT)
    if allowed:
        membership = staff.grant(by, user, place, role)
        assert (membership.user, membership.salon, membership.role) == (
            user,
            place,
            role,
        )
        detail = {"user": user.username, "role": role}
        assert _events() == [("staff_granted", place and place.pk, detail)]
    else:
        with pytest.raises(PermissionDenied):
            staff.grant(by, user, place, role)
        assert not Membership.objects.filter(user=user).exists()
        assert _events() == []


@pytest.mark.parametrize("who", WHO)
@pytest.mark.parametrize("held", list(Role))
def test_a_role_is_changed_and_taken_by_those_who_could_have_given_it(who, held):
    salon = make_salon()
    by, user = make_user(who, salon), make_user(held, salon)
    membership = Membership.objects.get(user=user)
    allowed = who == SUPERUSER or (who in GRANTERS and held != Role.SUPPORT)
    if allowed:
        if held != Role.SUPPORT:
            staff.change(by, membership, Role.VIEWER)
            assert Membership.objects.get(user=user).role == Role.VIEWER
        staff.revoke(by, membership)
        assert not Membership.objects.filter(user=user).exists()
        assert _events()[-1][0] == "staff_revoked"
        assert not staff.may_enter(user)
    else:
        with pytest.raises(PermissionDenied):
            staff.change(by, membership, Role.VIEWER)
        with pytest.raises(PermissionDenied):
            staff.revoke(by, membership)
        assert Membership.objects.get(user=user).role == held
        assert _events() == []


def test_a_role_is_judged_as_it_is_stored():
    by, user = make_user(Role.SUPPORT), make_user(Role.SUPPORT)
    membership = Membership.objects.get(user=user)
    membership.salon, membership.role = make_salon(), Role.VIEWER
    with pytest.raises(PermissionDenied):
        staff.revoke(by, membership)
    assert staff.is_support(User.objects.get(pk=user.pk))


def test_the_same_role_again_is_no_change():
    by, salon = make_user(Role.SUPPORT), make_salon()
    user = make_user(Role.STAFF, salon)
    staff.change(by, Membership.objects.get(user=user), Role.STAFF)
    assert _events() == []


def test_a_second_role_at_a_salon_is_refused_and_not_recorded():
    by, salon = make_user(Role.SUPPORT), make_salon()
    user = make_user(Role.STAFF, salon)
    with pytest.raises(IntegrityError), transaction.atomic():
        staff.grant(by, user, salon, Role.OWNER)
    assert _events() == []
