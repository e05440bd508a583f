"""The order in which rows of creds and keys were committed, kept by triggers of our own."""

import json
from collections.abc import Collection
from typing import Any

import psycopg

from tests.chaos.writes import CREDS, Committed, Row, fingerprint
from tests.sealed import opened_creds, opened_key

# A row's lock is held from before its trigger to the commit, so the numbers of one row
# are in the order of its commits.
_SETUP = """
CREATE TABLE chaos_history (
    number bigserial PRIMARY KEY, session_id text NOT NULL, key_type text NOT NULL,
    key_id text NOT NULL, value jsonb, epoch bigint NOT NULL
);
CREATE FUNCTION chaos_note(session_id text, key_type text, key_id text, value jsonb)
RETURNS void LANGUAGE sql AS $$
    INSERT INTO chaos_history (session_id, key_type, key_id, value, epoch)
    SELECT $1, $2, $3, $4, s.epoch FROM whatsapp_whatsappsession s
    JOIN whatsapp_salon salon ON salon.id = s.salon_id
    WHERE 'company_' || salon.salon_id = $1
$$;
CREATE FUNCTION chaos_creds() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM chaos_note(OLD.company_id, 'creds', '', NULL);
    ELSE
        PERFORM chaos_note(NEW.company_id, 'creds', '', NEW.creds);
    END IF;
    RETURN NULL;
END $$;
CREATE FUNCTION chaos_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        PERFORM chaos_note(OLD.company_id, OLD.key_type, OLD.key_id, NULL);
    ELSE
        PERFORM chaos_note(NEW.company_id, NEW.key_type, NEW.key_id, NEW.value);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER chaos AFTER INSERT OR DELETE OR UPDATE OF creds ON whatsapp_auth
    FOR EACH ROW EXECUTE FUNCTION chaos_creds();
CREATE TRIGGER chaos AFTER INSERT OR DELETE OR UPDATE OF value ON whatsapp_keys
    FOR EACH ROW EXECUTE FUNCTION chaos_key();
"""

_COMMITTED = """
SELECT number, session_id, key_type, key_id, value::text, epoch
FROM chaos_history WHERE number > %s ORDER BY number
"""
_STORED = """
SELECT company_id, 'creds', '', creds::text FROM whatsapp_auth
UNION ALL SELECT company_id, key_type, key_id, value::text FROM whatsapp_keys
"""


OVERTAKEN = 5000
"""A number may be committed after higher ones; never after so many."""


class History:
    """Everything that was committed, read a bit further each time."""

    def __init__(self) -> None:
        self._commits: dict[int, Committed] = {}
        self._read = 0

    @property
    def commits(self) -> Collection[Committed]:
        """All of them."""
        return self._commits.values()

    @staticmethod
    def keep(connection: psycopg.Connection[Any]) -> None:
        """Begin to keep the history."""
        assert f"'{CREDS}'" in _SETUP
        connection.execute(_SETUP.encode())

    @staticmethod
    def last(connection: psycopg.Connection[Any]) -> int:
        """Return the number of the latest commit."""
        row = connection.execute("SELECT coalesce(max(number), 0) FROM chaos_history")
        ((number,),) = row.fetchall()
        return int(number)

    def read(self, connection: psycopg.Connection[Any]) -> dict[Row, str]:
        """Read on; return what is stored, as of the same moment."""
        with connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            since = self._read - OVERTAKEN
            committed = connection.execute(_COMMITTED, (since,)).fetchall()
            stored = connection.execute(_STORED).fetchall()
        for number, session, kind, id_, value, epoch in committed:
            if number not in self._commits:
                row = (session, kind, id_)
                self._commits[number] = Committed(number, row, _of(row, value), epoch)
            self._read = number
        return {
            (session, kind, id_): _of((session, kind, id_), value) or ""
            for session, kind, id_, value in stored
        }


def _of(row: Row, text: str | None) -> str | None:
    """Return the fingerprint of a value as a gateway was asked to store it."""
    if text is None:
        return None
    value = json.loads(text)
    if row[1] == CREDS:
        return fingerprint(opened_creds(row[0], value))
    return fingerprint(opened_key(*row, value))
