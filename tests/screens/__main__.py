"""`make screens`: pictures of every state of both faces, in docs/screens/.

Everything on them is real: the service, Baileys, the simulated WhatsApp. Each picture
shows one state four times: on a phone in Russian and in English, light and dark, and
the same on a desktop.
"""

import argparse
import asyncio
import re
import tempfile
from pathlib import Path

from playwright.async_api import async_playwright

from tests.chromium import ARGUMENTS, CHROMIUM, MISSING
from tests.scenarios import World
from tests.screens import linking, staff
from tests.screens.studio import State, Studio
from tests.simulator import Simulator

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "screens"
CLOCKS = {"WHATSAPP_PAIRING_TIMEOUT": "8", "WHATSAPP_PAIRING_BUDGET": "100/3600"}


INTRODUCTION = """# Both faces, in every state

Made by `make screens`: the real service, Baileys and the simulated WhatsApp. Each picture shows
one state four times: on a phone in Russian (light) and in English (dark), and wide, in Russian
(dark) and in English (light). Numbers and names are invented. Only some of them, elsewhere:
`.venv/bin/python -m tests.screens --only reset --folder somewhere`.
"""


def index(states: list[State]) -> str:
    """Return the page that shows all pictures."""
    parts = [INTRODUCTION]
    face = ""
    for state in states:
        side, _number, *words = state.name.split("-")
        if side != face:
            face = side
            title = "The linking page" if side == "linking" else "The admin"
            parts.append(f"## {title}\n")
        title = " ".join(words).capitalize()
        parts.append(f"### {title}\n\n![{title}]({state.name}.jpg)\n")
    return "\n".join(parts)


async def make(folder: Path, states: list[State]) -> None:
    """Take the pictures of ``states`` and write them to ``folder``."""
    with (
        tempfile.TemporaryDirectory() as scratch,
        Simulator.start() as simulator,
        World(Path(scratch), simulator, clocks=CLOCKS) as world,
    ):
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(
                executable_path=CHROMIUM, args=ARGUMENTS
            )
            studio = Studio(world, browser, folder)
            for state in states:
                print(state.name, flush=True)  # noqa: T201  (a command)
                await studio.take(state)
            await browser.close()


def main() -> None:
    """Take the pictures that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--only", default="", help="a regular expression of names")
    arguments = parser.parse_args()
    if not CHROMIUM:
        raise SystemExit(MISSING)
    states = [
        state
        for state in (*linking.STATES, *staff.STATES)
        if re.search(arguments.only, state.name)
    ]
    arguments.folder.mkdir(parents=True, exist_ok=True)
    asyncio.run(make(arguments.folder, states))
    if not arguments.only:
        (arguments.folder / "README.md").write_text(index(states))


main()
