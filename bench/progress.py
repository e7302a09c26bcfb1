"""Progress of a run for the user: a bar on a terminal, a line per epoch in a log."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

MEASURING = 1
"""Epochs that measuring counts as in the bar, which would otherwise be full while it takes its seconds."""


class Progress:
    """Counts epochs of all phases of a run, the base's included, on stderr.

    Args:
        label: text before the bar and every line.
        quiet: print nothing.
    """

    def __init__(self, label: str, quiet: bool = False) -> None:
        self.label, self.quiet = label, quiet
        self.bar: tqdm | None = None
        self.total = self.done = self.skipped = 0
        self.measuring = False
        self.started = time.monotonic()

    def start(self, total: int) -> None:
        """The work begins: ``total`` epochs."""
        self.total, self.started = total, time.monotonic()
        if sys.stderr.isatty() and not self.quiet:
            style = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining} {postfix}"
            self.bar = tqdm(total=total + MEASURING, desc=self.label, bar_format=style, dynamic_ncols=True)

    def skip(self, epochs: int) -> None:
        """So many epochs were trained before, by the run that this one resumes."""
        self.done += epochs
        self.skipped += epochs
        if self.bar is not None:
            self.bar.initial = self.bar.n = self.done

    def fewer(self, epochs: int) -> None:
        """So many epochs will not be needed."""
        self.total -= epochs
        if self.bar is not None and epochs:
            self.bar.total = self.total + MEASURING
            self.bar.refresh()

    def step(self, share: float) -> None:
        """A step of an epoch that has ``1 / share`` of them is done."""
        if self.bar is not None:
            self.bar.update(min(share, self.total - self.bar.n))

    def epoch(self, what: str, epoch: int, epochs: int, loss: float, accuracy: float) -> None:
        """An epoch is done: ``what`` names the phase; ``accuracy`` is the validation top-1."""
        self.done += 1
        text = f"{what} epoch {epoch}/{epochs} loss {loss:.4f} val {100 * accuracy:.2f} %"
        if self.bar is not None:
            self.bar.n = min(self.done, self.total)
            self.bar.set_postfix_str(text)
        elif not self.quiet:
            rate = (time.monotonic() - self.started) / max(self.done - self.skipped, 1)
            left = max(0.0, rate * (self.total - self.done))
            self.say(f"{text}, {left:.0f} s left")

    def saved(self) -> None:
        """A checkpoint was written: whatever ends the process now costs nothing that is done so far."""

    def note(self, text: str) -> None:
        """What is done after the epochs."""
        self.measuring = True
        if self.bar is not None:
            self.bar.set_postfix_str(text)
        else:
            self.say(text)

    def say(self, text: str) -> None:
        """A message of its own line."""
        if self.quiet:
            return
        if self.bar is not None:
            self.bar.write(f"{self.label}: {text}", file=sys.stderr)
        else:
            print(f"{self.label}: {text}", file=sys.stderr, flush=True)

    def counting(self, total: int, what: str, unit: str = "images") -> tqdm:
        """A bar of its own for ``total`` of something, to be used as a context; in a log one line."""
        bar = sys.stderr.isatty() and not self.quiet
        if not bar:
            self.say(f"{what}: {total:,}")
        return tqdm(total=total, desc=what, unit=f" {unit}", disable=not bar, dynamic_ncols=True, leave=False)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self.bar is not None:
            if self.measuring:
                self.bar.n = self.bar.total
                self.bar.refresh()
            self.bar.close()
