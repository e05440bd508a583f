"""Every failure has a code, a sentence in both languages, and an HTTP status."""

import gettext
import re
from pathlib import Path

import pytest
from django.conf import settings
from django.utils import translation

from whatsapp import errors
from whatsapp.errors import CATALOGUE, ErrorCode, WhatsAppError, message_of

LOCALE = Path(errors.__file__).parent / "locale"
CYRILLIC = re.compile("[а-яё]", re.IGNORECASE)


@pytest.mark.parametrize("code", list(ErrorCode))
def test_every_code_has_a_sentence_in_both_languages(code):
    with translation.override("ru"):
        assert CYRILLIC.search(message_of(code))
    with translation.override("en"):
        sentence = message_of(code)
        assert not CYRILLIC.search(sentence)
        assert sentence.endswith(".")
    assert 400 <= CATALOGUE[code].http_status < 600


def test_an_unknown_code_is_an_internal_error_for_people():
    with translation.override("en"):
        assert message_of("SOMETHING_ELSE") == message_of("INTERNAL")


def test_an_error_speaks_the_language_that_is_active_when_it_is_read():
    error = WhatsAppError(ErrorCode.RATE_LIMITED, retry_after=30)
    with translation.override("en"):
        english = error.message
    with translation.override("ru"):
        assert error.message != english
    assert str(error) == "RATE_LIMITED"
    assert (error.http_status, error.retry_after) == (429, 30)


def _entries(po: Path) -> dict[str, str]:
    """Read the plain entries of a .po file (ours has no plurals and no contexts)."""
    entries: dict[str, str] = {}
    for block in po.read_text().split("\n\n"):
        lines = [line for line in block.splitlines() if not line.startswith("#")]
        text = {"msgid": "", "msgstr": ""}
        name = ""
        for line in lines:
            word, _space, rest = line.partition(" ")
            if word in text:
                name, line = word, rest
            text[name] += _unquote(line)
        entries[text["msgid"]] = text["msgstr"]
    return entries


def _unquote(line: str) -> str:
    return (
        line.strip()[1:-1]
        .replace("\\n", "\n")
        .replace('\\"', '"')
        .replace("\\\\", "\\")
    )


@pytest.mark.parametrize("language", ["ru", "en"])
def test_the_compiled_translations_are_those_of_the_source(language):
    folder = LOCALE / language / "LC_MESSAGES"
    source = _entries(folder / "django.po")
    with (folder / "django.mo").open("rb") as file:
        compiled = gettext.GNUTranslations(file)
    assert all(
        compiled.gettext(sentence) == translated
        for sentence, translated in source.items()
        if sentence and translated
    )
    catalogue = compiled._catalog  # type: ignore[attr-defined]
    assert {key for key in catalogue if key} == {
        key for key, value in source.items() if key and value
    }


def _spoken() -> set[str]:
    """Return every sentence that our code and templates ask a translation of."""
    call = re.compile(r"""\b_\(\s*((?:"(?:[^"\\]|\\.)*"\s*)+)\)""")
    sentences = set()
    for path in LOCALE.parent.rglob("*.py"):
        for match in call.finditer(path.read_text()):
            parts = re.findall(r'"((?:[^"\\]|\\.)*)"', match[1])
            sentences.add("".join(parts).replace('\\"', '"'))
    tag = re.compile(r"""{% translate (?:"([^"]*)"|'([^']*)') %}""")
    for path in (settings.BASE_DIR / "templates").rglob("*.html"):
        sentences |= {one or other for one, other in tag.findall(path.read_text())}
    return sentences


def test_every_sentence_of_the_code_is_translated():
    russian = _entries(LOCALE / "ru" / "LC_MESSAGES" / "django.po")
    spoken = _spoken()
    assert len(spoken) > 60
    assert not {sentence for sentence in spoken if not russian.get(sentence)}
