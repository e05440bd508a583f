"""How long a salon waits for its pairing code, against bare Baileys.

Ours: ``request-pairing-code`` sent on the page's WebSocket → ``pairing-code`` received,
over daphne, PostgreSQL (fsync on), the gateway, the engine and WhatsApp's
acknowledgement; the QR session that the page has started is ended on the way.
Bare: makeWASocket → acknowledgement, in a warm Node.js process of the same version.
Both on the same simulator in one run, in turn.

    .venv/bin/python -m benchmarks.time_to_code [--runs 100]
"""

import argparse
import asyncio
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from tests.scenarios import World
from tests.simulator import Simulator, find_node

SCRIPT = Path(__file__).with_name("bare_baileys.js")
WARM_UP = 5
NEEDED_RATIO = 1.15


class BareBaileys:
    """A warm Node.js process that asks for one code at a time."""

    def __init__(self, ws_url: str) -> None:
        self._process = subprocess.Popen(
            [find_node(), str(SCRIPT), ws_url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def time_to_code(self, phone: str) -> float:
        """Return milliseconds from connecting to the acknowledged code."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{phone}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def stop(self) -> None:
        """End the process."""
        self._process.communicate()


async def ours(world: World) -> float:
    """Return milliseconds from the page's request to its code."""
    salon = world.salon()
    async with salon.page() as page:
        await page.event("qr-update")
        mark = page.mark
        started = time.perf_counter()
        await page.send("request-pairing-code", phoneNumber=f"+{salon.number}")
        name, data = await page.event("pairing-code", "pairing-code-error", since=mark)
        took = (time.perf_counter() - started) * 1000
        assert name == "pairing-code", data
        await page.send("reset-whatsapp-credentials")
        await page.event("credentials-reset", since=mark)
    return took


async def measure(runs: int) -> tuple[list[float], list[float]]:
    """Return the milliseconds of ``runs`` codes of ours and of bare Baileys."""
    our_times: list[float] = []
    bare_times: list[float] = []
    with tempfile.TemporaryDirectory() as folder, Simulator.start() as simulator:
        bare = BareBaileys(simulator.ws_url)
        with World(Path(folder), simulator, clocks={}) as world:
            for run in range(WARM_UP + runs):
                bare_ms = await asyncio.to_thread(bare.time_to_code, f"7903{run:07d}")
                our_ms = await ours(world)
                if run >= WARM_UP:
                    bare_times.append(bare_ms)
                    our_times.append(our_ms)
        bare.stop()
    return our_times, bare_times


def p95(times: list[float]) -> float:
    """Return the 95th percentile."""
    return statistics.quantiles(times, n=20)[-1]


def main() -> None:
    """Print both medians, both 95th percentiles and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=100)
    runs = parser.parse_args().runs
    our_times, bare_times = asyncio.run(measure(runs))
    print(f"{runs} codes each, in turn; milliseconds")
    print(f"{'':22}{'p50':>8}{'p95':>8}")
    for name, times in (
        ("request → code, ours", our_times),
        ("bare Baileys", bare_times),
    ):
        print(f"{name:22}{statistics.median(times):8.1f}{p95(times):8.1f}")
    median = statistics.median(our_times) / statistics.median(bare_times)
    print(f"{'ratio':22}{median:8.2f}{p95(our_times) / p95(bare_times):8.2f}")
    print(f"needed: p50 ratio <= {NEEDED_RATIO}")


if __name__ == "__main__":
    main()
