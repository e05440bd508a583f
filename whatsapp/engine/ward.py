"""A Node.js of its own for sessions on probation, where they start one at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from whatsapp.engine.blame import Blame
from whatsapp.engine.errors import EngineError, EngineGone
from whatsapp.engine.limits import Limits
from whatsapp.engine.process import Process
from whatsapp.engine.slots import Slots, Turn

logger = logging.getLogger(__name__)

# So many times the span of suspicion is waited for quiet in the ward, at most.
LONGEST_COOLING = 10


class Trial:
    """A turn to start in the ward; it lasts until the ward has become quiet again."""

    def __init__(self, ward: Ward, turn: Turn) -> None:
        self._ward = ward
        self._turn = turn
        self._is_granted = False
        self._is_over = False

    async def wait(self) -> bool:
        """Wait for the turn; False if it was released first."""
        self._is_granted = await self._turn.wait()
        return self._is_granted

    def release(self) -> None:
        if self._is_over:
            return
        self._is_over = True
        if self._is_granted:
            self._ward.cool(self._turn)
        else:
            self._turn.release()
            self._ward.on_trial_over()


class Ward:
    """Started when somebody on probation comes, stopped when nobody is any more.

    Args:
        make: a process that is not started yet; raises EngineGone if it is too late.
    """

    def __init__(
        self, make: Callable[[], Process], blame: Blame, limits: Limits
    ) -> None:
        self.process: Process | None = None
        self._make = make
        self._blame = blame
        self._limits = limits
        # Whoever takes that long lets the next one in, whatever becomes of it.
        self._slots = Slots(1, 2 * limits.connect_timeout)
        self._trials = 0
        self._keeper: asyncio.Task[None] | None = None
        # One that is just being stopped.
        self._leaving: Process | None = None

    def trial(self) -> Trial:
        """Queue for the ward."""
        self._trials += 1
        return Trial(self, self._slots.turn())

    async def ready(self) -> Process:
        """The ward's Node.js, which is started if need be.

        Raises:
            EngineGone: it does not come up.
        """
        try:
            async with asyncio.timeout(self._limits.close_timeout):
                process = self.process or await self._start()
                await process.up.wait()
        except (EngineError, TimeoutError) as error:
            raise EngineGone("the ward does not start") from error
        return process

    async def _start(self) -> Process:
        process = self.process = self._make()
        try:
            await process.start()
        except BaseException:
            if self.process is process:
                self.process = None
            raise
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep())
        return process

    async def stop(self) -> None:
        if self._keeper:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
            self._keeper = None
        for process in (self.process, self._leaving):
            if process:
                await process.stop()
        self.process = None

    # One at a time --------------------------------------------------------------------

    def cool(self, turn: Turn) -> None:
        """Let the next one start when nobody here has said anything for a while.

        Then the next death has one suspect only.
        """
        now = asyncio.get_running_loop().time()
        self._cool(turn, now, now + LONGEST_COOLING * self._limits.suspicion)

    def _cool(self, turn: Turn, since: float, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        sessions = self.process.sessions if self.process else ()
        spoke = max([since, *(session.heard_at for session in sessions)])
        until = min(spoke + self._limits.suspicion, deadline)
        if until > loop.time():
            loop.call_at(until, self._cool, turn, since, deadline)
        else:
            turn.release()
            self.on_trial_over()

    def on_trial_over(self) -> None:
        self._trials -= 1

    # Going home -----------------------------------------------------------------------

    async def _keep(self) -> None:
        while self.process:
            await asyncio.sleep(self._limits.ping_interval)
            await self._send_home(self.process)
            if self._is_idle(self.process):
                logger.info("Nobody is on probation any more: the ward is closed")
                self._leaving, self.process = self.process, None
                await self._leaving.stop()
        self._keeper = None

    async def _send_home(self, process: Process) -> None:
        now = asyncio.get_running_loop().time()
        for session in [one for one in process.sessions if not one.starting]:
            session_id = session.ref.session_id
            if now - session.placed_at >= self._limits.probation:
                self._blame.acquit(session_id)
            if not self._blame.is_on_probation(session_id):
                await process.send_away(session)

    def _is_idle(self, process: Process) -> bool:
        return not (
            process.sessions or self._trials or self._blame.is_anybody_expected()
        )
