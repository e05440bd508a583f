"""Where the wheels lie that bring PostgreSQL and Node.js."""

import importlib.util
from pathlib import Path


class EmbeddedError(Exception):
    """The embedded default cannot work here; the message says what to do."""


def package_folder(name: str) -> Path:
    """Return the folder of an installed package without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError(f"The Python package {name} is not installed: run `make`.")
    return Path(next(iter(spec.submodule_search_locations)))
