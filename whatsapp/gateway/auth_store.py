"""The engine's AuthStore on PostgreSQL.

One pool for all salons, one statement per batch, and the epoch checked in the same
transaction. Values are JSON text from the engine to the table and back; nothing decodes
them, unless they are stored sealed (services/sealing.py).
"""

import asyncio
import logging
import time

import psycopg
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from whatsapp.engine import SessionRef, StoreRefused
from whatsapp.gateway.metrics import GatewayMetrics
from whatsapp.services import sealing

logger = logging.getLogger(__name__)

UNSTORED_EPOCH = -1
"""Of a device that is logged in only to be unlinked: nothing of it is stored."""

TRIES = 4
RETRY_SECONDS = 0.25

_LOAD = b"""
SELECT creds::text, (
    SELECT array_agg(kid) FROM whatsapp_sealingkey WHERE kid <> ALL(%(kids)s))
FROM whatsapp_auth WHERE company_id = %(id)s
"""
_SEALED_WITH = b"""
SELECT value->>'kid' FROM whatsapp_keys
WHERE company_id = %(id)s AND value->>'kid' = ANY(%(kids)s) LIMIT 1
"""
_NOTE_KEY = b"""
INSERT INTO whatsapp_sealingkey (kid) VALUES (%(kid)s)
ON CONFLICT DO NOTHING RETURNING kid
"""
_GET = b"""
SELECT coalesce(jsonb_object_agg(key_id, value), '{}'::jsonb)::text
FROM whatsapp_keys WHERE company_id = %s AND key_type = %s AND key_id = ANY(%s)
"""
_NOT_FENCED = b"""
SELECT (s.epoch = %(epoch)s AND s.written >= %(number)s)
    OR s.unlink_epoch IS NOT DISTINCT FROM %(epoch)s
FROM whatsapp_whatsappsession s
JOIN whatsapp_salon salon ON salon.id = s.salon_id WHERE salon.salon_id = %(salon)s
"""
# Taking the row's lock keeps a take-over, a swap or a reset (which lock it to change its
# epoch) strictly before or after each write. The number keeps out a statement that
# PostgreSQL comes to late, after a pause or a cut: what it holds was stored, with what
# came after it, by a later one.
_SAVE = b"""
WITH fence AS MATERIALIZED (
    UPDATE whatsapp_whatsappsession s SET written = %(number)s
    FROM whatsapp_salon salon
    WHERE salon.id = s.salon_id AND salon.salon_id = %(salon)s
      AND s.epoch = %(epoch)s AND s.written < %(number)s
    RETURNING 1
), entry AS MATERIALIZED (
    SELECT t, i, v FROM jsonb_to_recordset(coalesce(%(keys)s::jsonb, '[]'::jsonb))
        AS entry(t text, i text, v jsonb), fence
), deleted AS (
    DELETE FROM whatsapp_keys k USING entry
    WHERE k.company_id = %(id)s AND k.key_type = t AND k.key_id = i AND v IS NULL
), written AS (
    INSERT INTO whatsapp_keys
        (company_id, key_type, key_id, value, created_at, updated_at)
    SELECT %(id)s, t, i, v, now(), now() FROM entry WHERE v IS NOT NULL
    ON CONFLICT (company_id, key_type, key_id)
    DO UPDATE SET value = excluded.value, updated_at = now(), expires_at = NULL
), changed AS (
    UPDATE whatsapp_auth SET creds = %(creds)s::jsonb, updated_at = now()
    FROM fence WHERE company_id = %(id)s AND %(creds)s::text IS NOT NULL
)
SELECT count(*) FROM fence
"""


class DatabaseAuthStore:
    """Creds and keys of every salon that this gateway runs.

    Args:
        conninfo: libpq connection string.
        size: connections at most, whatever the number of salons.
        metrics: where it is noted how long reads and writes take.
    """

    def __init__(
        self, conninfo: str, size: int = 8, metrics: GatewayMetrics | None = None
    ) -> None:
        self._metrics = metrics or GatewayMetrics()
        self._pool = AsyncConnectionPool(
            conninfo,
            min_size=1,
            max_size=size,
            timeout=10,
            # Whoever asks next tries anew: the pool's own tries come ever more rarely.
            reconnect_timeout=1,
            kwargs={"autocommit": True, "application_name": "gateway auth store"},
            open=False,
        )
        self._noted = ""

    async def open(self) -> None:
        """Open the pool; it connects in the background and after every outage."""
        await self._pool.open(wait=False)

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.close(timeout=1)

    async def load(self, session_id: str) -> str | None:
        """Return a salon's creds as JSON text, or None if it has none.

        Raises:
            SealingError: they, or one of the salon's keys, cannot be opened.
            psycopg.Error: the database failed.
        """
        row = await self._run(_LOAD, {"id": session_id, "kids": sealing.kids()})
        if row is None:
            return None
        creds, missing = row
        if missing:
            # With some of its keys a session would seem to run, and read nothing.
            lost = await self._run(_SEALED_WITH, {"id": session_id, "kids": missing})
            if lost is not None:
                raise sealing.KeyMissing(str(lost[0]))
        return sealing.unseal_creds(session_id, str(creds))

    async def get_keys(self, ref: SessionRef, key_type: str, key_ids: list[str]) -> str:
        """Return ``{id: value}`` as JSON text; ids without a row are left out.

        Raises:
            psycopg.Error: the database failed; this never looks like "no key".
            SealingError: one of them cannot be opened.
        """
        if ref.epoch == UNSTORED_EPOCH:
            return "{}"
        began = time.perf_counter()
        row = await self._run(_GET, (ref.session_id, key_type, key_ids))
        self._metrics.read_seconds.observe(time.perf_counter() - began)
        assert row is not None  # noqa: S101  (an aggregate has one row)
        return sealing.unseal_keys_of(ref.session_id, key_type, str(row[0]))

    async def save(
        self, ref: SessionRef, creds: str | None, keys: str | None, number: int
    ) -> None:
        """Write creds and keys together.

        Args:
            ref: whose; its epoch must be the salon's present one.
            creds: JSON text, or None if unchanged.
            keys: JSON text of ``[{"t": type, "i": id, "v": value or null}, …]``, or None.
            number: of this batch, greater than those before it under this epoch. One
                that is stored already, alone or within a later one, is not again.

        Raises:
            StoreRefused: the epoch is over: another socket, gateway or a reset came.
            psycopg.Error: the database failed.
        """
        if ref.epoch == UNSTORED_EPOCH:
            return
        salon_id = int(ref.session_id.removeprefix("company_"))
        place: dict[str, object] = {
            "salon": salon_id,
            "epoch": ref.epoch,
            "number": number,
        }
        began = time.perf_counter()
        if sealing.is_enabled():
            await self._note_key()
            creds = creds and sealing.seal_creds(ref.session_id, creds)
            keys = keys and sealing.seal_keys(ref.session_id, keys)
        row = await self._run(
            _SAVE, {**place, "id": ref.session_id, "creds": creds, "keys": keys}
        )
        if row is not None and row[0]:
            self._metrics.wrote(creds, keys, time.perf_counter() - began)
            return
        # Stored by a try whose answer was lost; or a socket that a reset wants unlinked:
        # it must live until its owner has done so, and a refused write would end it.
        known = await self._run(_NOT_FENCED, place)
        if not (known and known[0]):
            self._metrics.writes_refused.inc()
            raise StoreRefused(f"{ref.session_id}: epoch {ref.epoch} is over")

    async def _note_key(self) -> None:
        """Remember before the first write what it is sealed with."""
        kid = sealing.current_kid()
        if self._noted != kid:
            await self._run(_NOTE_KEY, {"kid": kid})
            self._noted = kid

    async def _run(
        self, sql: bytes, params: dict[str, object] | tuple[object, ...]
    ) -> tuple[object, ...] | None:
        try:
            return await self._try(sql, params)
        except BaseException:  # the engine cancels what takes too long
            self._metrics.store_failures.inc()
            raise

    async def _try(
        self, sql: bytes, params: dict[str, object] | tuple[object, ...]
    ) -> tuple[object, ...] | None:
        for attempt in range(TRIES):
            try:
                async with self._pool.connection() as connection:
                    cursor = await connection.execute(sql, params)
                    return await cursor.fetchone()
            except (psycopg.OperationalError, PoolTimeout) as error:
                # Every statement here may be repeated: it says what is, not what to add.
                if attempt == TRIES - 1:
                    raise
                self._metrics.store_retries.inc()
                logger.warning("Creds store: %s, again", type(error).__name__)
                await asyncio.sleep(RETRY_SECONDS * 2**attempt)
        return None
