"""The faults, each with what it may cost at most."""

import signal

from tests.chaos.arena import Arena, Fault


async def _kill_gateway(arena: Arena) -> None:
    victim = await arena.busiest()
    await arena.cluster.stop_gateway(victim, signal.SIGKILL)
    await arena.recovered(within=10)


FAULTS = [
    Fault("kill-gateway", "SIGKILL of one gateway", _kill_gateway, take_over=True),
]
