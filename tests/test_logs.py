import logging
from collections.abc import Iterator

import pytest

from aiadmin import logs


@pytest.fixture
def repetitive(caplog: pytest.LogCaptureFixture) -> Iterator[logging.Logger]:
    logger = logging.getLogger("a library that repeats itself")
    rarely = logs.OncePerMinute()
    logger.addFilter(rarely)
    yield logger
    logger.removeFilter(rarely)


def test_a_sentence_passes_once_a_minute_whatever_its_arguments(
    repetitive: logging.Logger, caplog: pytest.LogCaptureFixture
):
    for seconds in range(5):
        repetitive.error("gone for %s s", seconds)
    repetitive.error("gone for good")
    assert caplog.messages == ["gone for 0 s", "gone for good"]


def test_it_passes_again_after_the_pause(
    repetitive: logging.Logger,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
):
    repetitive.error("gone")
    monkeypatch.setattr(logs, "PAUSE_SECONDS", 0.0)
    repetitive.error("gone")
    assert caplog.messages == ["gone", "gone"]
