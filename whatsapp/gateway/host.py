"""What a runner needs of the gateway around it."""

import asyncio
from collections import Counter
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from whatsapp.engine import Engine, SessionRef
from whatsapp.gateway.auth_store import DatabaseAuthStore
from whatsapp.gateway.database import Services
from whatsapp.gateway.pace import Pace
from whatsapp.gateway.policy import Clocks
from whatsapp.gateway.teller import Teller
from whatsapp.gateway.web_version import WebVersions

if TYPE_CHECKING:
    from whatsapp.gateway.runner import SalonRunner


class Host(Protocol):
    """The gateway, as its salons know it."""

    name: str
    engine: Engine
    store: DatabaseAuthStore
    services: Services
    settings: Clocks
    replaced: Counter[int]
    pace: Pace
    web: WebVersions
    teller: Teller

    def new_ref(
        self, runner: "SalonRunner", session_id: str, epoch: int
    ) -> SessionRef: ...

    def end_ref(self, ref: SessionRef) -> None: ...

    def spawn(
        self, work: Coroutine[Any, Any, None], name: str
    ) -> asyncio.Task[None]: ...

    def dismiss(self, creds: str) -> None: ...

    async def release(self, runner: "SalonRunner", to: str = "") -> None: ...

    def forget(self, runner: "SalonRunner") -> None: ...
