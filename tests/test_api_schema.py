"""The OpenAPI document says all that the API answers, and nothing breaks the API."""

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_finished, request_started
from django.db import close_old_connections
from django.test import override_settings
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance

from tests.api_world import BASE, make_key
from tests.factories import OTHER_PHONE, link, make_salon, show_code
from whatsapp.api import api
from whatsapp.services import pairing

pytestmark = pytest.mark.django_db

EXAMPLES = 8

NOT_HERE = [
    # Which text is a phone, no schema can say.
    positive_data_acceptance,
    # It takes our key for one that it has made up; strangers have a test of their own.
    ignored_auth,
]

SCHEMA: Any = schemathesis.openapi.from_wsgi(f"{BASE}/openapi.json", WSGIHandler())
OPERATIONS = {
    operation.definition.raw["operationId"]: operation
    for operation in (result.ok() for result in SCHEMA.get_all_operations())
}
"""Made from the same document that programs fetch."""


@pytest.fixture(autouse=True)
def one_transaction() -> Iterator[None]:
    """Keep the test's connection over the end of a request, as Django's client does."""
    signals = (request_started, request_finished)
    for signal in signals:
        signal.disconnect(close_old_connections)
    yield
    for signal in signals:
        signal.connect(close_old_connections)


def ask(operation: Any, mode: GenerationMode, **fixed: Any) -> set[int]:
    """Call an operation in many ways; return the statuses that were answered.

    Every answer is held against the document: its status, media type, headers and body.
    """
    statuses = set()

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode, **fixed))
    def run(case: Any) -> None:
        response = case.call_and_validate(excluded_checks=NOT_HERE)
        assert response.status_code < 500
        statuses.add(response.status_code)

    with override_settings(WHATSAPP_API_RATE=(100_000, 1)):
        run()
    return statuses


def test_every_operation_is_tried():
    documented = api.get_openapi_schema()["paths"].values()
    names = {each["operationId"] for path in documented for each in path.values()}
    assert OPERATIONS.keys() == names


def key_headers() -> dict[str, str]:
    _key, text = make_key()
    return {"Authorization": f"Bearer {text}"}


def salon_with_everything() -> dict[str, object]:
    """Return what stands for a salon and its attempt in addresses."""
    salon = make_salon()
    link(salon)
    pairing.request_code(salon, OTHER_PHONE, "page")
    attempt_id, _epoch = show_code(salon)
    return {"salon": str(salon.salon_id), "attempt_id": attempt_id}


def takes(operation: Any, *places: str) -> bool:
    """Say whether an operation has a body, or parameters in one of ``places``."""
    raw = operation.definition.raw
    parameters = raw.get("parameters", [])
    return "requestBody" in raw or any(each["in"] in places for each in parameters)


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_what_is_answered_is_documented(name: str, mode: GenerationMode):
    operation = OPERATIONS[name]
    wrong = mode is GenerationMode.NEGATIVE
    # Any text may be the name of a salon.
    if wrong and name != "getAttempt" and not takes(operation, "query", "header"):
        return
    salon_with_everything()
    assert 401 not in ask(operation, mode, headers=key_headers())


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - {"listSessions"}))
def test_what_is_answered_about_a_salon_is_documented(name: str, mode: GenerationMode):
    operation = OPERATIONS[name]
    if mode is GenerationMode.NEGATIVE and not takes(operation, "query", "header"):
        return
    known = {
        parameter: value
        for parameter, value in salon_with_everything().items()
        if f"{{{parameter}}}" in operation.path
    }
    statuses = ask(operation, mode, headers=key_headers(), path_parameters=known)
    assert not statuses & {401, 403, 404}


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_what_strangers_are_answered_is_documented(name: str):
    headers = {"Authorization": "Bearer wak_aaaaaaaaaa_x"}
    assert 200 not in ask(OPERATIONS[name], GenerationMode.POSITIVE, headers=headers)
