from typing import Any

import pytest
from channels.layers import InMemoryChannelLayer
from django.test import AsyncClient


async def test_the_process_is_alive_without_a_database(async_client: AsyncClient):
    response = await async_client.get("/healthz")
    assert response.status_code == 200
    assert response.json() == {"status": "ok"}


@pytest.mark.django_db(transaction=True)
async def test_it_is_ready_when_its_parts_answer(async_client: AsyncClient):
    response = await async_client.get("/readyz")
    assert response.json() == {
        "status": "ok",
        "database": "ok",
        "channel_layer": "ok",
    }
    assert response.status_code == 200


@pytest.mark.django_db(transaction=True)
async def test_a_broken_layer_is_named_without_its_secrets(
    async_client: AsyncClient, monkeypatch: pytest.MonkeyPatch
):
    async def refuse(*_: Any) -> None:
        raise ConnectionError("redis://:hunter2@cache refused")

    monkeypatch.setattr(InMemoryChannelLayer, "send", refuse)
    response = await async_client.get("/readyz")
    assert response.status_code == 200
    assert response.json()["status"] == "degraded"
    assert response.json()["channel_layer"] == "failed"
    assert response.json()["database"] == "ok"
    assert "hunter2" not in response.content.decode()


@pytest.mark.django_db(transaction=True)
async def test_a_layer_that_hangs_is_not_waited_for(
    async_client: AsyncClient, monkeypatch: pytest.MonkeyPatch
):
    async def lose(*_: Any) -> None:
        """Send nothing: the receiver waits for ever."""

    monkeypatch.setattr(InMemoryChannelLayer, "send", lose)
    # Time enough for the part that does answer.
    monkeypatch.setattr("aiadmin.health.CHECK_SECONDS", 3.0)
    response = await async_client.get("/readyz")
    assert response.status_code == 200
    assert response.json()["channel_layer"] == "no answer"


@pytest.mark.django_db(transaction=True)
async def test_missing_migrations_are_named(
    async_client: AsyncClient, monkeypatch: pytest.MonkeyPatch
):
    newer = frozenset({("whatsapp", "9999_from_the_next_release")})
    monkeypatch.setattr("aiadmin.health._known_migrations", lambda: newer)
    response = await async_client.get("/readyz")
    assert response.status_code == 503
    assert response.json()["database"] == "migrations are missing"
