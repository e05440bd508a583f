"""The faults, each with what it may cost at most."""

import asyncio
import signal

from tests.chaos.arena import Arena, Fault
from tests.chaos.cluster import FAKETIME, tell

HOUR = 3600
EVEN_SECONDS = 40.0

DATABASE = (
    r"^([\w]+\.)*(OperationalError|InterfaceError|AdminShutdown|ConnectionTimeout"
    r"|CannotConnectNow|CrashShutdown|PoolTimeout|NoAnswer|TimeoutError)\b",
)
REDIS = (
    r"^redis\.exceptions\.\w+",
    r"^(ConnectionRefusedError|ConnectionResetError|asyncio\.\w+\.IncompleteReadError)\b",
)

# --- gateways -------------------------------------------------------------------------


async def _terminate_gateway(arena: Arena) -> None:
    await _hand_over(arena, within=5)


async def _hand_over(arena: Arena, within: float) -> None:
    victim = await arena.busiest()
    stopping = asyncio.create_task(arena.cluster.stop_gateway(victim))
    await arena.recovered(within)
    if code := await stopping:
        arena.violate(f"{victim.name} ended with {code} after SIGTERM")


async def _kill_gateway(arena: Arena) -> None:
    victim = await arena.busiest()
    await arena.cluster.stop_gateway(victim, signal.SIGKILL)
    await arena.recovered(within=10)


async def _restart_gateways(arena: Arena) -> None:
    for victim in list(arena.cluster.members):
        if code := await arena.cluster.stop_gateway(victim):
            arena.violate(f"{victim.name} ended with {code} after SIGTERM")
        await arena.cluster.add_gateway()
        await arena.recovered(within=10)


async def _pause_gateway(arena: Arena) -> None:
    victim = await arena.busiest()
    tell([victim.pid], signal.SIGSTOP)
    try:
        await arena.recovered(within=20, what="take-over from a gateway that hangs")
        await arena.until(30)
    finally:
        tell([victim.pid], signal.SIGCONT)
    await arena.recovered(within=5, what="calm after it woke up")


async def _join(arena: Arena) -> None:
    await arena.cluster.add_gateway()
    await arena.recovered(within=10)
    loop = asyncio.get_running_loop()
    began = loop.time()
    while True:
        shares = sorted((await arena.shares()).values())
        if shares[-1] - shares[0] <= 1 and sum(shares) == len(arena.salons):
            break
        if loop.time() > began + EVEN_SECONDS * arena.slack:
            arena.violate(f"the salons are not spread evenly: {shares}")
            return
    arena.note(f"{shares} after {loop.time() - began:.1f} s")
    await arena.recovered(within=5)


async def _wrong_clock(arena: Arena) -> None:
    if FAKETIME is None:
        arena.violate("NOT TESTED: libfaketime is not installed (make chaos does it)")
        return
    right = list(arena.cluster.members)
    wrong = await arena.cluster.add_gateway(clock=HOUR)
    for gateway in right:
        await arena.cluster.stop_gateway(gateway)
    await arena.recovered(within=15, what="all salons on a clock that is wrong")
    for _ in right:
        await arena.cluster.add_gateway()
    await arena.cluster.stop_gateway(wrong)
    await arena.recovered(within=15, what="back to clocks that are right")


# --- Node.js --------------------------------------------------------------------------


async def _kill_node(arena: Arena) -> None:
    tell((await arena.busiest()).nodes(), signal.SIGKILL)
    await arena.recovered(within=10)


async def _stop_node(arena: Arena) -> None:
    nodes = (await arena.busiest()).nodes()
    tell(nodes, signal.SIGSTOP)
    try:
        await arena.recovered(within=20, what="recovery from a Node.js that hangs")
    finally:
        tell(nodes, signal.SIGCONT)


# --- PostgreSQL -----------------------------------------------------------------------


async def _restart_postgres(arena: Arena) -> None:
    await arena.cluster.postgres.stop()
    await arena.cluster.postgres.start()
    await arena.recovered(within=15)


async def _pause_postgres(arena: Arena, seconds: float, within: float) -> None:
    arena.cluster.postgres.pause()
    try:
        await asyncio.sleep(seconds)
    finally:
        arena.cluster.postgres.resume()
    await arena.recovered(within)


async def _pause_postgres_shortly(arena: Arena) -> None:
    await _pause_postgres(arena, 5, within=10)


async def _pause_postgres_for_long(arena: Arena) -> None:
    await _pause_postgres(arena, 25, within=25)


async def _postgres_is_down(arena: Arena) -> None:
    await arena.cluster.postgres.stop()
    await asyncio.sleep(40)
    await arena.cluster.postgres.start()
    await arena.recovered(within=25)


async def _cut_the_power(arena: Arena) -> None:
    victims = list(arena.cluster.members)
    await asyncio.gather(
        arena.cluster.postgres.crash(),
        *(arena.cluster.stop_gateway(each, signal.SIGKILL) for each in victims),
    )
    await arena.cluster.postgres.start()
    for _ in victims:
        await arena.cluster.add_gateway()
    await arena.recovered(within=20)


# --- Redis ----------------------------------------------------------------------------


async def _kill_redis(arena: Arena) -> None:
    await asyncio.to_thread(arena.cluster.redis.kill)
    await arena.recovered(within=10, what="going on without Redis")
    await arena.until(10)
    await asyncio.to_thread(arena.cluster.redis.start)
    await arena.recovered(within=10, what="going on with Redis")


# --- the network and WhatsApp ---------------------------------------------------------


async def _cut_network(arena: Arena) -> None:
    proxy = (await arena.busiest()).proxy
    await proxy.stop()
    proxy.cut()
    await asyncio.sleep(10)
    await proxy.start()
    await arena.recovered(within=20)


async def _swallow_network(arena: Arena) -> None:
    proxy = (await arena.busiest()).proxy
    proxy.swallow()
    await asyncio.sleep(20)
    proxy.heal()
    await arena.recovered(within=20)


async def _slow_network(arena: Arena) -> None:
    proxy = (await arena.busiest()).proxy
    proxy.delay = 0.75
    await arena.recovered(within=15, what="going on slowly")
    await arena.until(15)
    proxy.heal()
    await arena.recovered(within=10)


async def _whatsapp_unavailable(arena: Arena) -> None:
    simulator = arena.cluster.simulator
    fault = await asyncio.to_thread(lambda: simulator.fault("http", status=503))
    await asyncio.to_thread(lambda: simulator.stream_error(503, all=True))
    await asyncio.sleep(15)
    await asyncio.to_thread(fault.remove)
    await arena.recovered(within=30)


async def _whatsapp_flaps(arena: Arena) -> None:
    await _whatsapp_unavailable(arena)
    await asyncio.to_thread(lambda: arena.cluster.simulator.drop(all=True))
    await arena.recovered(within=15, what="recovery from the second blow")


async def _drop_all(arena: Arena) -> None:
    await asyncio.to_thread(lambda: arena.cluster.simulator.drop(all=True))
    await arena.recovered(within=15)


async def _stream_503(arena: Arena) -> None:
    simulator = arena.cluster.simulator
    await asyncio.to_thread(lambda: simulator.stream_error(503, all=True))
    await arena.recovered(within=15)


async def _stream_515(arena: Arena) -> None:
    simulator = arena.cluster.simulator
    await asyncio.to_thread(lambda: simulator.stream_error(515, all=True))
    await arena.recovered(within=15)


FAULTS = [
    Fault("term-gateway", "SIGTERM of one gateway", _terminate_gateway, off=2),
    # Its Node.js may need a moment more to end than others to log in.
    Fault("kill-gateway", "SIGKILL of one gateway", _kill_gateway, 10, take_over=True),
    Fault(
        "restart-gateways",
        "each gateway in turn ended by SIGTERM and replaced",
        _restart_gateways,
        off=2,
    ),
    Fault(
        "pause-gateway",
        "SIGSTOP of one gateway for 30 s; then it wakes up",
        _pause_gateway,
        # Its Node.js notices before the database does.
        truth=8,
        tracebacks=DATABASE,
    ),
    Fault("kill-node", "SIGKILL of one gateway's Node.js", _kill_node, off=10),
    Fault("stop-node", "SIGSTOP of one gateway's Node.js", _stop_node),
    Fault(
        "restart-postgres",
        "PostgreSQL shut down and started again",
        _restart_postgres,
        keeps_sockets=True,
        tracebacks=DATABASE,
    ),
    Fault(
        "pause-postgres",
        "SIGSTOP of PostgreSQL for 5 s",
        _pause_postgres_shortly,
        keeps_sockets=True,
        tracebacks=DATABASE,
    ),
    Fault(
        "pause-postgres-long",
        "SIGSTOP of PostgreSQL for 25 s",
        _pause_postgres_for_long,
        tracebacks=DATABASE,
    ),
    Fault(
        "postgres-down",
        "PostgreSQL away for 40 s",
        _postgres_is_down,
        tracebacks=DATABASE,
    ),
    Fault(
        "power-cut",
        "SIGKILL of PostgreSQL and of all gateways at once",
        _cut_the_power,
        take_over=True,
        # Nobody is left who knows. Once the database is up, those who may still hold
        # sockets are waited for (claims.GRACE_SECONDS) before anybody says otherwise.
        truth=10.0,
        tracebacks=DATABASE,
    ),
    Fault(
        "kill-redis",
        "Redis killed, and back after 10 s",
        _kill_redis,
        keeps_sockets=True,
        tracebacks=REDIS,
    ),
    Fault(
        "cut-network",
        "one gateway cut off from WhatsApp for 10 s, by resets and refusals",
        _cut_network,
    ),
    Fault(
        "swallow-network",
        "one gateway cut off from WhatsApp for 20 s, without a word",
        _swallow_network,
    ),
    Fault(
        "slow-network",
        "0.75 s each way between one gateway and WhatsApp for 15 s",
        _slow_network,
        keeps_sockets=True,
    ),
    Fault("drop-all", "WhatsApp cuts all connections", _drop_all, off=15),
    Fault("stream-503", "WhatsApp ends all sockets with 503", _stream_503, off=15),
    Fault("stream-515", "WhatsApp ends all sockets with 515", _stream_515, off=15),
    Fault(
        "whatsapp-503",
        "WhatsApp ends all sockets with 503 and answers 503 for 15 s",
        _whatsapp_unavailable,
    ),
    Fault(
        "whatsapp-flaps",
        "the same, and a cut of all connections as soon as they are back",
        _whatsapp_flaps,
    ),
    Fault(
        "wrong-clock",
        "all salons on a gateway whose clock is an hour fast, and back",
        _wrong_clock,
        off=8,
    ),
    Fault("join-gateway", "one more gateway, which gets its share", _join, off=2),
]
