"""What the command line says about how a search is watched."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Watching:
    """How a search is watched."""

    dashboard: bool = True
    #: Whether Ray exports metrics, on ports that ask for no token.
    metrics: bool = False
    #: The project in Weights & Biases, if it is used.
    wandb_project: str | None = None
    #: Whether Ray's logs and the output of its workers are shown.
    verbose: bool = False
