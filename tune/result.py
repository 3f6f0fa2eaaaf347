"""The result of a search as one object, for programs that start searches."""

from collections import Counter
from pathlib import Path
from typing import Any

from tune.confirmation import Confirmation
from tune.folder import SearchFolder
from tune.opening import read_json
from tune.study import SearchStudy


def result_of(
    study: SearchStudy,
    folder: SearchFolder,
    model: Path | None,
    report: Path | None,
    confirmation: Confirmation | None,
    seconds: float,
) -> dict[str, Any]:
    """Return what `--json` prints: plain values, paths as text. `seconds` are those since the start."""
    counts = Counter(record.state for record in study.records())
    files = {
        "results": folder.path,
        "study": folder.journal,
        "trials": folder.path / "trials.csv",
        "best_model": model,
        "report": report,
    }
    return {
        "search": folder.path.name,
        "best": next(
            (
                {"trial": best.number, "seed": best.seed, "epochs": best.epochs, "parameters": best.parameters}
                | {"scores": best.scores, "broken_limits": study.ranking.broken(best.scores)}
                for best in study.best(1)
            ),
            None,
        ),
        # After a confirmation the model is that of a repeat, with scores of its own.
        "model": read_json(model.with_name("metrics.json")) if model else None,
        "confirmation": None if confirmation is None else _confirmed(confirmation),
        "trials": {state: counts[state] for state in ("COMPLETE", "PRUNED", "FAIL", "RUNNING")},
        "trials_asked_for": study.space.trials,
        "ended_by": _end(study, folder),
        "failure": None if folder.failure is None else str(folder.failure),
        "files": {key: str(path) if path and path.exists() else None for key, path in files.items()},
        "seconds": round(seconds, 3),
    }


def _end(study: SearchStudy, folder: SearchFolder) -> str:
    """Why no further trial ran."""
    if folder.failure is not None:
        return "failure"
    if study.is_interrupted:
        return "interrupt"
    if sum(record.state != "RUNNING" for record in study.records()) >= study.space.trials:
        return "trials"
    return "time_budget" if study.timed_out else "space" if study.exhausted else "patience"


def _confirmed(confirmation: Confirmation) -> dict[str, Any]:
    winner, separable, sentence = confirmation.verdict()
    scores = {} if winner is None else confirmation.summary(winner, "test")
    return {"winner": winner, "separable": separable, "sentence": sentence, "test_scores": scores}
