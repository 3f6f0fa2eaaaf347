"""What a monitor is told."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tune.ranking import Scores


@dataclass(frozen=True)
class Training:
    """A trial of a search, or a repeat of one (counted from 1): its name, what was chosen for it, all its settings."""

    name: str
    number: int
    repeat: int
    parameters: Mapping[str, Any]
    settings: Mapping[str, Any]


class Monitor:
    """Is told what becomes of trainings. It may raise what it wants: it is then not asked again, once this was said."""

    #: What it is called.
    name: str
    #: How to see what it writes, for the lines that a search begins with.
    hint: str = ""

    def started(self, training: Training) -> None:
        """A training has begun, or goes on in a new run of the search."""

    def reported(self, training: Training, epoch: int, scores: Scores) -> None:
        """A training has reached an epoch; ``scores`` are empty where there was no evaluation."""

    def ended(self, training: Training, state: str, epochs: int, reason: str, test: Scores) -> None:
        """A training has ended in one of Optuna's states; a repeat has scores on the test set."""

    def close(self) -> None:
        """Write what is left to be written. Trainings that have not ended were interrupted."""


def give_up(name: str, error: Exception) -> None:
    """Say that the search goes on without a monitor."""
    say(f"{name}: {first_line(error)}; the search goes on without it.")


def first_line(error: Exception) -> str:
    """Return what an error says, on one line."""
    return (str(error).splitlines() or [""])[0].rstrip(".") or type(error).__name__


def say(text: str) -> None:
    """Print a line about a monitor."""
    print(text, file=sys.stderr, flush=True)
