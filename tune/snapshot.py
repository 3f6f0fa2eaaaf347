"""What Ray is kept from pickling."""

from typing import Any


class NotInSnapshots:
    """A part of the driver that Ray's snapshots of a run hold an empty shell of.

    Tune pickles its searcher, scheduler and callbacks into its own private folder, which nothing of ours reads. Live
    parts (an open study, a terminal) could not be pickled.
    """

    def __reduce__(self) -> Any:
        return (NotInSnapshots, ())
