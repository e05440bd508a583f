"""One salon under this gateway: everything about it happens here, one thing at a time.

The runner has a mailbox. Whatever concerns its salon (a changed row, a word of the
engine, the end of a wait) is put there and handled in order, so that no request can
race with a reconnect. It decides by rows that it reads afresh, never by what it was
told before, and it acts under the epoch that it read: if the rows have moved on, the
services refuse, and it looks again.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from enum import Enum
from typing import Any

import psycopg

from whatsapp import alerts
from whatsapp.engine import (
    Closed,
    CodeEntered,
    CodeExpired,
    CodeRefused,
    CodeRejected,
    DisconnectReason,
    EngineError,
    Opened,
    Paired,
    PasskeyRequired,
    Qr,
    SessionRef,
    UnreadableCreds,
)
from whatsapp.errors import ErrorCode, WhatsAppError
from whatsapp.gateway import policy
from whatsapp.gateway.database import DATABASE_AWAY, DATABASE_ERRORS
from whatsapp.gateway.host import Host
from whatsapp.gateway.mailbox import Mailbox
from whatsapp.gateway.messages import (
    Abandon,
    Code,
    FinishOverdue,
    Gone,
    Leave,
    Look,
    Message,
    Pulse,
    Refused,
    SocketMessage,
)
from whatsapp.gateway.metrics import Waits
from whatsapp.gateway.streak import Streak
from whatsapp.models import PairingAttempt, Salon, WhatsAppSession
from whatsapp.phones import phone_from_jid
from whatsapp.services import attempts, claims, sessions
from whatsapp.services.claims import OpenAttempt, Work
from whatsapp.services.sealing import SealingError

logger = logging.getLogger(__name__)

Kind = PairingAttempt.Kind
Stage = PairingAttempt.Stage
Status = WhatsAppSession.Status

LOOK_AGAIN_SECONDS = 1.0
RESTART_SECONDS = 5.0
"""A link socket that is not closed by then, although the phone is linked, we close."""

STORE_SECONDS = 60.0
"""For so long a newly linked device is kept in memory while the database is away."""


class Mode(Enum):
    """What the present socket is for."""

    LINK = "link"
    RESUME = "resume"


class SalonRunner:
    """Runs one salon's session as long as this gateway owns it.

    Args:
        host: the gateway.
        salon_pk: primary key of the salon.
        waits: measures how long it waits.
    """

    def __init__(self, host: Host, salon_pk: int, waits: Waits) -> None:
        self.salon_pk = salon_pk
        self.epoch = -1
        self.attempt_id: int | None = None
        self.ref: SessionRef | None = None
        self.is_open = False
        self.is_silent = False
        self.awaits_whatsapp = False
        """WhatsApp could not be reached; it waits before it tries again."""
        self.is_entered = False
        """A code was just typed on the phone: within a moment it is a link, or not."""
        self._host = host
        self._salon: Salon | None = None
        self._mode = Mode.RESUME
        self._shows_qr = False
        self._ever_open = False
        self._was_outdated = False
        self._streak = Streak()
        self._waits = waits
        self._turn: float | None = None
        self._version = (0, 0, 0)
        self._timer: asyncio.TimerHandle | None = None
        self._waiting = False
        self._worker: asyncio.Task[None] | None = None
        self._mailbox = Mailbox(
            self._handle_safely,
            host.spawn,
            f"salon {salon_pk}",
            on_empty=lambda: host.teller.hurry(),
        )
        self._gone = False
        self._abandoned = False
        self.missed = False
        """Something came while it was being released: the salon wants another look."""

    # --- the mailbox ------------------------------------------------------------------

    def post(self, message: Message) -> None:
        """Put a message into the mailbox; it is handled after those before it."""
        if self._gone:
            self.missed = True
            return
        if isinstance(message, Abandon):
            self._abandoned = True
        self._mailbox.put(message)

    @property
    def is_leaving(self) -> bool:
        """Whether it ends, or has ended: it does nothing more for its salon."""
        return self._gone or self._abandoned

    @property
    def may_move(self) -> bool:
        """Whether another gateway may have the salon: nobody is just linking it."""
        return not self.is_leaving and self.attempt_id is None

    def is_outdated(self, epoch: int, wanted: bool, attempt_id: int | None) -> bool:
        """Say whether the rows are not what this runner acts on."""
        return (
            epoch != self.epoch
            or attempt_id != self.attempt_id
            or (self.ref is not None and not wanted)
            or (self.ref is None and not self._waiting)
        )

    async def _handle_safely(self, message: Message) -> None:
        try:
            await self._handle(message)
        except DATABASE_ERRORS as error:
            logger.warning(
                "Salon %s: the database is away (%s)",
                self.salon_pk,
                type(error).__name__,
                extra=DATABASE_AWAY,
            )
            if not self._abandoned:
                await asyncio.sleep(LOOK_AGAIN_SECONDS)
                if isinstance(message, Look):
                    message = Look(message.hurry)  # what it brought is no longer news
                self._mailbox.put_back(message)
        except Exception:  # the salon must go on, whatever surprised us
            logger.exception(
                "Salon %s: unexpected",
                self.salon_pk,
                extra=alerts.tags(
                    "pairingCodeUnhandled"
                    if self._mode is Mode.LINK
                    else "session_unexpected",
                    company_id=self._salon.session_id if self._salon else None,
                ),
            )
            await self._close_socket()
            self._back_off()

    async def _handle(self, message: Message) -> None:
        match message:
            case Look(hurry=hurry, work=work):
                if hurry:
                    self._stop_waiting()
                await self._look(work)
            case Leave(to=to):
                await self._leave(to)
            case Abandon():
                await self._abandon()
            case _:
                if message.ref == self.ref and self.ref is not None:
                    await self._handle_socket(message, self.ref)

    async def _handle_socket(self, message: SocketMessage, ref: SessionRef) -> None:
        """Handle a word about the present socket; words about others are not heard."""
        match message:
            case Paired():
                await self._on_paired(ref, message)
            case Opened(jid=jid):
                await self._on_opened(ref, jid)
            case Closed(reason=reason) | Gone(reason=reason):
                await self._on_closed(ref, reason)
            case Refused(error=error):
                await self._on_refused(ref, error)
            case Pulse(silent=silent):
                await self._on_pulse(ref, silent=silent)
            case FinishOverdue():
                await self._on_finish_overdue()
            case _ if self.attempt_id is not None:
                await self._handle_progress(message, ref, self.attempt_id)

    async def _handle_progress(
        self, message: SocketMessage, ref: SessionRef, attempt_id: int
    ) -> None:
        """Record how far the attempt of the present socket has come."""
        match message:
            # A socket that shows a code has QRs as well; they are nobody's.
            case Qr(qr=qr, lifetime_s=lifetime) if self._shows_qr:
                await self._show(attempts.record_qr, attempt_id, ref, qr, lifetime)
            case Code(code=code):
                if not await self._show(attempts.record_code, attempt_id, ref, code):
                    self.post(Look())
            case CodeEntered():
                self.is_entered = True
                await self._call(attempts.record_entered, attempt_id, ref.epoch)
            case CodeRejected():
                self.is_entered = False
                logger.info("%s: a code was entered and refused", ref.session_id)
            case CodeExpired():
                await self._expire_attempt(attempt_id, ref.epoch)
            case PasskeyRequired():
                await self._fail_attempt(ErrorCode.PASSKEY_REQUIRED, ref.epoch)
                self.post(Look())

    async def _show(
        self,
        record: Callable[..., bool],
        attempt_id: int,
        ref: SessionRef,
        *args: object,
    ) -> bool:
        """Record a code or a QR; False if nobody wants it any more."""
        shown = await self._call(record, attempt_id, ref.epoch, *args)
        if shown:
            self._waits.shown(attempt_id)
        return shown

    # --- deciding ---------------------------------------------------------------------

    async def _look(self, work: Work | None) -> None:
        """Read the salon's rows, unless that was just done, and do what they ask for."""
        if work is None:
            work = await self._host.services(
                claims.work, self.salon_pk, self._host.name
            )
        if work is None:
            await self._close_socket()
            await self._release()
            return
        self._salon = work.salon
        self._waits.looked(work)
        if self.ref is not None and work.epoch != self.ref.epoch:
            await self._close_socket(unlink=work.unlink_epoch == self.ref.epoch)
            self._stop_waiting()
        self.epoch = work.epoch
        await self._drop_ended_attempt(work)
        if work.attempt is not None:
            if work.attempt.id != self.attempt_id or self.ref is None:
                await self._serve_attempt(work, work.attempt)
        elif work.wanted and work.creds.linked:
            await self._keep_running(work)
        else:
            await self._close_socket()
            await self._host.services(
                sessions.record_stopped, work.salon, self._host.name
            )
            await self._release()

    async def _keep_running(self, work: Work) -> None:
        """See that a linked session runs, unless it is to wait."""
        if self.is_open and work.status == Status.RECONNECTING:
            # Somebody has taken us for lost, while nobody could see our lock.
            await self._call(sessions.record, work.epoch, Status.OPEN)
        if self.ref is not None or self._waiting:
            return
        if work.status == Status.BANNED or work.wait > 0:
            await self._release()
        elif self._has_turn():
            await self._resume(work)

    def _has_turn(self) -> bool:
        """Say whether it may start now; if not, it looks again when its turn comes.

        Somebody who waits in front of a page needs no turn.
        """
        now = asyncio.get_running_loop().time()
        if self._turn is None:
            self._turn = self._host.pace.turn()
        if self._turn > now:
            self._later(self._turn - now, Look(hurry=True))
            return False
        self._turn = None
        return True

    async def _drop_ended_attempt(self, work: Work) -> None:
        """Close a link socket whose attempt was ended by somebody else."""
        if self.attempt_id is None:
            return
        if work.attempt is not None and work.attempt.id == self.attempt_id:
            return
        self.attempt_id = None
        self._stop_waiting()
        if self._mode is Mode.LINK:
            await self._close_socket()

    async def _serve_attempt(self, work: Work, attempt: OpenAttempt) -> None:
        if self._waiting and attempt.id == self.attempt_id:
            return  # between two tries of this very attempt
        if attempt.remaining <= 0:
            # Nobody came in time; who waited has been told so, or is now.
            await self._host.services(attempts.expire_overdue)
            self.post(Look())
            return
        if attempt.id != self.attempt_id:
            self._streak.failures = 0
        self._waits.serves(attempt)
        self._stop_waiting()
        if attempt.stage == Stage.FINISHING:
            await self._resume(work, attempt)
        elif attempt.stage == Stage.REQUESTED and attempt.kind == Kind.QR:
            if work.creds.linked and not attempt.fresh:
                await self._resume(work, attempt)
            else:
                await self._link(work, attempt)
        elif attempt.stage == Stage.REQUESTED or attempt.kind == Kind.QR:
            await self._link(work, attempt)
        else:
            # A code lives and dies with its socket, and that was another one.
            await self._close_socket()
            await self._expire_attempt(attempt.id, None)

    # --- sockets ----------------------------------------------------------------------

    async def _link(self, work: Work, attempt: OpenAttempt) -> None:
        await self._close_socket()
        ref = await self._start(work, Status.PAIRING, attempt.id)
        if ref is None:
            return
        self._mode = Mode.LINK
        self._shows_qr = attempt.kind == Kind.QR
        self._work(ref, self._run_link(ref, attempt.phone))

    async def _run_link(self, ref: SessionRef, phone: str) -> None:
        try:
            await self._host.engine.open(ref, None)
            if phone:
                code = await self._host.engine.request_code(ref, phone)
                self.post(Code(ref, code))
        except CodeRefused as error:
            self.post(Refused(ref, error))
        except (EngineError, TimeoutError):
            self.post(Gone(ref, DisconnectReason.ENGINE_GONE))

    async def _resume(self, work: Work, attempt: OpenAttempt | None = None) -> None:
        await self._close_socket()
        status = Status.PAIRING if attempt else Status.CONNECTING
        if attempt is None and work.status == Status.RECONNECTING:
            status = Status.RECONNECTING
        ref = await self._start(work, status, attempt.id if attempt else None)
        if ref is None:
            return
        self._mode = Mode.RESUME
        self._was_outdated = work.status == Status.OUTDATED
        first = attempt is not None and attempt.stage == Stage.FINISHING
        self._ever_open = not first
        self._work(ref, self._run_resume(ref, first=first))
        if first:
            self._later(
                self._host.settings.finish / 2, FinishOverdue(ref), waiting=False
            )

    async def _run_resume(self, ref: SessionRef, *, first: bool) -> None:
        try:
            creds = await self._host.store.load(ref.session_id)
            if creds is None:
                self.post(Look())
                return
            await self._host.engine.open(ref, creds, first=first)
        except UnreadableCreds:
            logger.exception(
                "%s: the stored creds are no creds",
                ref.session_id,
                extra=alerts.ELSEWHERE,  # by its status, needs_attention
            )
            self.post(Gone(ref, DisconnectReason.MULTIDEVICE_MISMATCH))
        except SealingError as error:
            logger.error(  # noqa: TRY400 (it says all)
                "%s: %s", ref.session_id, error, extra=alerts.ELSEWHERE
            )
            self.post(Gone(ref, DisconnectReason.STORE_SEALED))
        except (EngineError, TimeoutError):
            self.post(Gone(ref, DisconnectReason.ENGINE_GONE))
        except psycopg.Error as error:
            logger.warning(
                "%s: creds not loaded: %s",
                ref.session_id,
                type(error).__name__,
                exc_info=True,
                extra=alerts.tags(
                    "load_credentials",
                    component="baileys_auth",
                    company_id=ref.session_id,
                    category="database",
                ),
            )
            self.post(Gone(ref, DisconnectReason.ENGINE_GONE))

    async def _start(
        self, work: Work, status: str, attempt_id: int | None
    ) -> SessionRef | None:
        """Raise the epoch for a new socket; None if the rows have moved on."""
        epoch = await self._host.services(
            sessions.start,
            work.salon,
            self._host.name,
            work.epoch,
            status,
            attempt_id,
        )
        if epoch is None:
            self.post(Look())
            return None
        self.awaits_whatsapp = False
        self.epoch = epoch
        self.attempt_id = attempt_id
        self.is_open = False
        self._version = self._host.web.in_use
        self.ref = self._host.new_ref(self, work.salon.session_id, epoch)
        return self.ref

    def _work(self, ref: SessionRef, work: Coroutine[Any, Any, None]) -> None:
        self._worker = self._host.spawn(work, f"{ref.session_id} {ref.generation}")

    async def _close_socket(self, *, unlink: bool = False) -> None:
        """End the present socket; returns when it is gone and its writes are settled."""
        ref, self.ref = self.ref, None
        worker, self._worker = self._worker, None
        self.is_open = self.is_silent = self.is_entered = False
        if ref is None:
            return
        self._host.end_ref(ref)
        if worker is not None and not worker.done():
            worker.cancel()
            await asyncio.wait([worker])
        await self._host.engine.close(ref, unlink=unlink)

    # --- what the engine says ---------------------------------------------------------

    async def _on_refused(self, ref: SessionRef, refused: CodeRefused) -> None:
        await self._close_socket()
        if policy.worth_another_try(refused, self._streak.failures):
            self._later(self._streak.retry_in(), Look(hurry=True))
            return
        await self._fail_attempt(policy.error_of(refused), epoch=ref.epoch)
        self.post(Look())
        if refused.reason is not None and refused.reason.is_outdated:
            await self._host.web.on_refused(self._version)

    async def _on_paired(self, ref: SessionRef, paired: Paired) -> None:
        """Store the new device; keep it in memory while the database is away."""
        phone = phone_from_jid(paired.jid)
        deadline = asyncio.get_running_loop().time() + STORE_SECONDS
        while True:
            try:
                wanted = self.attempt_id is not None and await self._call(
                    attempts.record_linked,
                    self.attempt_id,
                    ref.epoch,
                    paired.creds,
                    paired.keys,
                    phone,
                )
                break
            except WhatsAppError:
                wanted = False
                break
            except DATABASE_ERRORS:
                if asyncio.get_running_loop().time() > deadline:
                    raise
                await asyncio.sleep(LOOK_AGAIN_SECONDS / 2)
        self.is_entered = False
        if wanted:
            # WhatsApp closes with 515 next. If it does not, we go on without.
            self._later(RESTART_SECONDS, FinishOverdue(ref), waiting=False)
        else:
            await self._close_socket()
            self._host.dismiss(paired.creds)
            self.post(Look())

    async def _on_opened(self, ref: SessionRef, jid: str) -> None:
        self._stop_waiting()
        phone = phone_from_jid(jid)
        if await self._call(attempts.record_open, ref.epoch, phone):
            self._waits.opened(self.attempt_id)
            self.attempt_id = None
            self.is_open = self._ever_open = True
            self._streak.opened()
            if self._was_outdated:
                self._was_outdated = False
                await self._host.web.on_accepted()
        else:
            self.post(Look())

    async def _on_pulse(self, ref: SessionRef, *, silent: bool) -> None:
        self.is_silent = silent
        if silent:
            await self._call(sessions.record, ref.epoch, Status.DEGRADED, "silent")
        else:
            await self._call(sessions.record, ref.epoch, Status.OPEN)

    async def _on_finish_overdue(self) -> None:
        if not self.is_open:
            await self._close_socket()
            self.post(Look(hurry=True))

    async def _on_closed(self, ref: SessionRef, reason: DisconnectReason) -> None:
        was_open = self.is_open
        await self._close_socket()
        logger.info("%s: closed, %s (%s)", ref.session_id, reason, self._mode.value)
        if self._mode is Mode.LINK:
            await self._on_link_closed(ref, reason)
        else:
            self._waits.closed(reason, was_open=was_open)
            if was_open and self._streak.ended_open():
                self._host.replaced.pop(self.salon_pk, None)
            await self._on_session_closed(ref, reason)

    async def _on_link_closed(self, ref: SessionRef, reason: DisconnectReason) -> None:
        work = await self._host.services(claims.work, self.salon_pk, self._host.name)
        attempt = work.attempt if work else None
        if attempt is None or attempt.id != self.attempt_id:
            self.post(Look())
            return
        if attempt.stage == Stage.FINISHING:
            self.post(Look(hurry=True))  # 515: log in with the new creds at once
            return
        if attempt.stage == Stage.REQUESTED or (
            attempt.kind == Kind.QR and not reason.is_refs_ended
        ):
            # Nothing is lost yet that another socket could not bring.
            await self._on_refused(
                ref, CodeRefused(CodeRefused.Kind.CLOSED, reason=reason)
            )
            return
        await self._expire_attempt(attempt.id, ref.epoch)

    async def _on_session_closed(
        self, ref: SessionRef, reason: DisconnectReason
    ) -> None:
        verdict = policy.judge(
            reason,
            bad_sessions=self._streak.bad_sessions,
            replaced=self._host.replaced[self.salon_pk],
        )
        match verdict.then:
            case policy.Then.RESTART if self._streak.may_restart():
                self.post(Look(hurry=True))
            case policy.Then.LOG_OUT:
                await self._on_logged_out(ref, reason)
            case policy.Then.HALT:
                if reason.is_replaced:
                    self._host.replaced[self.salon_pk] += 1
                await self._halt(ref, reason, verdict)
            case policy.Then.RESTART | policy.Then.BACK_OFF:
                self._streak.note(reason)
                await self._on_lost(ref, reason)

    async def _on_logged_out(self, ref: SessionRef, reason: DisconnectReason) -> None:
        if self._ever_open or not await self._call(
            attempts.refuse_link, ref.epoch, str(reason)
        ):
            await self._call(sessions.record_logged_out, ref.epoch, str(reason))
        self._streak.failures = 0
        self.post(Look(hurry=True))

    async def _halt(
        self, ref: SessionRef, reason: DisconnectReason, verdict: policy.Verdict
    ) -> None:
        """Stop trying for a while, or for good, and say why."""
        if self.attempt_id is not None:
            await self._fail_attempt(verdict.error, epoch=ref.epoch)
        await self._call(
            sessions.record,
            ref.epoch,
            verdict.status,
            str(reason),
            retry_in=verdict.retry_in,
        )
        if reason.is_outdated:
            await self._host.web.on_refused(self._version, self.salon_pk)
        await self._release()

    async def _on_lost(self, ref: SessionRef, reason: DisconnectReason) -> None:
        """The connection broke: try again, ever more slowly, and never give up."""
        if self.attempt_id is None:
            await self._call(
                sessions.record, ref.epoch, Status.RECONNECTING, str(reason)
            )
            if reason == DisconnectReason.ENGINE_GONE:
                # No fault of the connection: it is opened as soon as Node.js is there.
                self._later(policy.ENGINE_SECONDS, Look(hurry=True))
                return
        elif self._streak.failures >= policy.LINK_TRIES and self._ever_open:
            await self._fail_attempt(ErrorCode.WHATSAPP_UNREACHABLE, epoch=ref.epoch)
            self.attempt_id = None
        else:
            # Somebody waits for it.
            self._later(self._streak.retry_in(), Look(hurry=True))
            return
        self.awaits_whatsapp = (
            reason.is_unreachable or reason == DisconnectReason.UNAVAILABLE
        )
        self._back_off()

    # --- helpers ----------------------------------------------------------------------

    @property
    def _known_salon(self) -> Salon:
        assert self._salon is not None  # noqa: S101  (a socket starts with a look)
        return self._salon

    async def _call(
        self, service: Callable[..., bool], *args: object, **kwargs: object
    ) -> bool:
        return await self._host.services(service, self._known_salon, *args, **kwargs)

    async def _fail_attempt(self, error: ErrorCode, epoch: int | None = None) -> None:
        if self.attempt_id is not None:
            await self._call(attempts.fail, self.attempt_id, epoch, error)

    async def _expire_attempt(self, attempt_id: int, epoch: int | None) -> None:
        await self._call(
            attempts.fail, attempt_id, epoch, ErrorCode.CODE_EXPIRED, Stage.EXPIRED
        )
        self.post(Look())

    def _back_off(self) -> None:
        self._later(self._streak.back_off(), Look(hurry=True))

    def _later(self, delay: float, message: Message, *, waiting: bool = True) -> None:
        self._stop_waiting()
        self._waiting = waiting
        self._timer = asyncio.get_running_loop().call_later(delay, self.post, message)

    def _stop_waiting(self) -> None:
        self._waiting = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _release(self, to: str = "") -> None:
        self._gone = True
        self.missed = self._mailbox.close()
        self._stop_waiting()
        await self._host.release(self, to)

    async def _leave(self, to: str) -> None:
        if self.may_move:
            await self._close_socket()
            await self._release(to)

    async def _abandon(self) -> None:
        self._gone = True
        self._mailbox.close()
        self._stop_waiting()
        await self._close_socket()
        self._host.forget(self)
