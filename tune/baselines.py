"""The classical criteria and the oracle, beside the trials: each at the energy error of the model that is best."""

from core.evaluation import rows
from core.held_out import HeldOut
from tune.objectives import suffixes
from tune.ranking import Scores

#: The study's attribute that holds them.
BASELINES = "baselines"


def baselines_at(scores: Scores, systems: HeldOut) -> dict[str, dict[str, float]]:
    """Return each baseline's scores at the median rel_dE of a model, with names and horizons as the model's own."""
    found: dict[str, dict[str, float]] = {}
    for horizon, suffix in suffixes(systems.periods).items():
        _, *classical = rows(dict(scores), systems, horizon)
        for row in classical:
            found.setdefault(row.name, {}).update({f"{key}{suffix}": value for key, value in row.scores.items()})
    return found
