"""A stand-in objective: learning curves as formulas, so that searches are tested in milliseconds a trial."""

import math
from typing import Any

from core.config import Config
from tune.study import SearchStudy


def distance(config: Config) -> float:
    """How far a configuration is from the best one, whose threshold is 2e-4 and lr 6e-3."""
    apart = abs(math.log10(config.lr) + 2.2) + abs(math.log10(config.energy_threshold) + 3.7)
    return apart + 0.2 * (config.feature_type != "delta_mag") + 0.1 * abs(config.history_len - 2)


def scores_at(config: Config, epoch: int) -> dict[str, float]:
    """Scores that rise from 0 to 2 less the distance, by half of what is missing every eighth of the epochs."""
    away = distance(config)
    return {
        "work_gain": (2 - away) * (1 - 0.5 ** (8 * epoch / config.epochs)),
        "rel_dE": 1e-3,
        "steps_per_orbit": 100 * (1 + away + abs(math.log10(config.lr) + 2.8)),
    }


def run(study: SearchStudy, trials: int) -> list[dict[str, Any]]:
    """Run trials one after the other; return their settings. Ends when the search is over."""
    settings = []
    for _ in range(trials):
        if study.over:
            break
        proposal = study.ask()
        config = proposal.config
        settings.append(config.to_dict())
        for epoch in range(config.evaluate_every, config.epochs + 1, config.evaluate_every):
            study.report(proposal.number, epoch, scores_at(config, epoch))
            if study.should_prune(proposal.number):
                break
        study.finish(proposal.number, epoch)
    return settings


def epochs_run(study: SearchStudy) -> int:
    """The epochs that all trials have run together."""
    return sum(record.epochs for record in study.records())
