"""What follows from each disconnect and each refusal."""

import itertools

import pytest

from whatsapp.engine import CodeRefused, DisconnectReason
from whatsapp.errors import ErrorCode
from whatsapp.gateway import policy
from whatsapp.gateway.policy import Then

Kind = CodeRefused.Kind


@pytest.mark.parametrize(
    ("number", "then", "status", "waits"),
    [
        (515, Then.RESTART, "reconnecting", False),
        (401, Then.LOG_OUT, "reconnecting", False),
        (402, Then.HALT, "banned", False),
        (403, Then.HALT, "banned", False),
        (405, Then.HALT, "outdated", True),
        (409, Then.HALT, "outdated", True),
        (411, Then.HALT, "needs_attention", True),
        (440, Then.HALT, "replaced", True),
        (1009, Then.HALT, "needs_attention", True),
        (1011, Then.HALT, "needs_attention", True),
        (408, Then.BACK_OFF, "reconnecting", False),
        (428, Then.BACK_OFF, "reconnecting", False),
        (500, Then.BACK_OFF, "reconnecting", False),
        (503, Then.BACK_OFF, "reconnecting", False),
        (499, Then.BACK_OFF, "reconnecting", False),
        (0, Then.BACK_OFF, "reconnecting", False),
        (99999, Then.BACK_OFF, "reconnecting", False),
    ],
)
def test_every_number_has_one_consequence(
    number: int, then: Then, status: str, waits: bool
) -> None:
    verdict = policy.judge(DisconnectReason(number))
    assert (verdict.then, verdict.status) == (then, status)
    assert (verdict.retry_in is not None) == waits


@pytest.mark.parametrize("reason", list(DisconnectReason))
def test_nothing_but_a_confirmed_logout_logs_out(reason: DisconnectReason) -> None:
    is_logout = policy.judge(reason).then is Then.LOG_OUT
    assert is_logout == (reason == DisconnectReason.LOGGED_OUT)


def test_every_reason_that_has_no_number_is_tried_again() -> None:
    for reason in DisconnectReason:
        if reason > DisconnectReason.UNKNOWN - 1:
            verdict = policy.judge(reason)
            is_tried_soon = verdict.then in (Then.RESTART, Then.BACK_OFF)
            assert is_tried_soon or verdict.retry_in, reason


def test_the_third_500_in_a_row_needs_attention() -> None:
    seen = [
        policy.judge(DisconnectReason.BAD_SESSION, bad_sessions=count).then
        for count in range(4)
    ]
    assert seen == [Then.BACK_OFF, Then.BACK_OFF, Then.HALT, Then.HALT]


def test_each_440_is_given_way_to_for_longer_and_never_for_ever() -> None:
    waits = [
        policy.judge(DisconnectReason.CONNECTION_REPLACED, replaced=count).retry_in
        for count in range(10)
    ]
    assert waits[:3] == [60, 120, 240]
    assert waits[-1] == policy.REPLACED_MAX_SECONDS
    assert all(wait is not None for wait in waits)


def test_delays_grow_to_their_limit_and_not_beyond() -> None:
    delays = [policy.reconnect_delay(count) for count in range(1, 5000)]
    assert all(one <= next_one for one, next_one in itertools.pairwise(delays))
    assert delays[0] == policy.RECONNECT_FIRST_SECONDS
    assert delays[-1] == policy.RECONNECT_MAX_SECONDS


def test_nobody_waits_for_longer_than_the_connection_has_been_lost() -> None:
    assert policy.reconnect_delay(7, lost_for=10) == 10
    assert policy.reconnect_delay(1, lost_for=0) == policy.RECONNECT_FIRST_SECONDS
    assert policy.reconnect_delay(3, lost_for=10) == 4


def test_the_tries_of_one_request_fit_into_the_answer_clock() -> None:
    waits = [policy.retry_delay(count + 1) for count in range(policy.LINK_TRIES)]
    assert sum(waits) < 2


@pytest.mark.parametrize("kind", list(Kind))
def test_every_refusal_has_a_word_and_an_end(kind: Kind) -> None:
    refused = CodeRefused(kind)
    assert isinstance(policy.error_of(refused), ErrorCode)
    # Only our own engine is waited for: it comes back, or the answer clock ends it.
    waited_for = kind is Kind.ENGINE_GONE
    assert policy.worth_another_try(refused, policy.LINK_TRIES) is waited_for


@pytest.mark.parametrize(
    ("reason", "error"),
    [
        (405, ErrorCode.ENGINE_OUTDATED),
        (409, ErrorCode.ENGINE_OUTDATED),
        (402, ErrorCode.ACCOUNT_BANNED),
        (403, ErrorCode.ACCOUNT_BANNED),
        (401, ErrorCode.PAIRING_CODE_FAILED),
        (411, ErrorCode.PAIRING_CODE_FAILED),
        (428, ErrorCode.WHATSAPP_UNREACHABLE),
        (499, ErrorCode.WHATSAPP_UNREACHABLE),
    ],
)
def test_a_socket_that_ends_instead_of_an_answer_says_why(
    reason: int, error: ErrorCode
) -> None:
    refused = CodeRefused(Kind.CLOSED, reason=DisconnectReason(reason))
    assert policy.error_of(refused) == error


@pytest.mark.parametrize(
    ("refused", "worth"),
    [
        (CodeRefused(Kind.UNREACHABLE), True),
        (CodeRefused(Kind.ENGINE_GONE), True),
        (CodeRefused(Kind.CLOSED), True),
        (CodeRefused(Kind.CLOSED, reason=DisconnectReason(503)), True),
        (CodeRefused(Kind.CLOSED, reason=DisconnectReason(405)), False),
        (CodeRefused(Kind.CLOSED, reason=DisconnectReason(403)), False),
        (CodeRefused(Kind.CLOSED, reason=DisconnectReason.REFS_ENDED), False),
        (CodeRefused(Kind.BAD_REQUEST), False),
        (CodeRefused(Kind.NOT_FOUND), False),
        (CodeRefused(Kind.RATE_LIMITED), False),
        (CodeRefused(Kind.SILENCE), False),
        (CodeRefused(Kind.PASSKEY), False),
    ],
)
def test_only_a_broken_connection_is_worth_another_socket(
    refused: CodeRefused, worth: bool
) -> None:
    assert policy.worth_another_try(refused, 0) is worth
