"""Which lanes take part in a tick: a batch of few lanes takes almost as long as one of all."""

from collections.abc import Sequence

from core.lane import Lane, Phase

#: One in so many lanes is too few to go on in their phase while the others wait in the other one.
_FEW = 8


class Turns:
    """Lets the lanes of one phase go on together, until few are left in it; those in the other phase wait."""

    def __init__(self) -> None:
        self._phase = Phase.COLLECT

    def next(self, lanes: Sequence[Lane]) -> tuple[list[int], list[int]]:
        """Return the numbers of the lanes that collect and of those that replay in this tick; one list is empty."""
        alive = [index for index, lane in enumerate(lanes) if lane.active]
        here = [index for index in alive if lanes[index].phase is self._phase]
        if _FEW * len(here) < len(alive):
            self._phase = Phase.REPLAY if self._phase is Phase.COLLECT else Phase.COLLECT
            here = [index for index in alive if lanes[index].phase is self._phase]
        return (here, []) if self._phase is Phase.COLLECT else ([], here)
