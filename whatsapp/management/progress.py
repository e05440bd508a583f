"""A bar for work that takes a while; on anything but a terminal it says nothing."""

from types import TracebackType
from typing import Self

from django.core.management.base import OutputWrapper

WIDTH = 30


class Progress:
    """Shows how far a piece of work is.

    Args:
        stream: usually standard error, so that the output stays clean.
        label: what is being done.
        total: how much there is of it.
    """

    def __init__(self, stream: OutputWrapper, label: str, total: int) -> None:
        self._stream = stream
        self._label = label
        self._total = total
        self._shown = total > 0 and stream.isatty()
        self.done = 0

    def __enter__(self) -> Self:
        """Show it."""
        self._draw()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the line as it is, and begin a new one."""
        if self._shown:
            self._write("\n")

    def step(self, count: int = 1) -> None:
        """Count what has been done."""
        self.done += count
        self._draw()

    def _draw(self) -> None:
        if not self._shown:
            return
        done = min(self.done, self._total)
        bar = "#" * (WIDTH * done // self._total)
        self._write(f"\r{self._label} [{bar:<{WIDTH}}] {done}/{self._total}")

    def _write(self, text: str) -> None:
        # As it is: neither in the colour of errors nor as a line of its own.
        self._stream.write(text, style_func=str, ending="")
        self._stream.flush()
