"""`--dry-run`: what a search would do, without Ray and without a trace."""

import os
from pathlib import Path

import torch
import yaml

from tune.ray_session import Node, RaySession
from tune.space import Space
from tune.study import SearchStudy
from tune.summary import resources_of
from tune.warm_start import WarmStart, take_over

#: Trials that are shown.
_SAMPLES = 3


def this_machine() -> RaySession:
    """Return what Ray would find here, had it been started."""
    return RaySession((Node(os.cpu_count() or 1, torch.cuda.device_count()),), dashboard=None, folder=Path())


def dry_run(space: Space, concurrent: int | None, packs: int, file: object, warm: WarmStart) -> int:
    """Print a space as it would be searched; the rest are comments, so that it is a file to be searched.

    ``concurrent`` trials fit at a time, None if that is not known before a cluster is joined. The trials are the
    sampler's first, were none to end before the last one is proposed.
    """
    print(f"# The space {file} as it would be searched.")
    print(space.to_yaml(), end="")
    print(f"\n# resources: {resources_of(space, concurrent, packs)}")
    study = SearchStudy(space, None, "dry run")
    take_over(study, warm)
    if warm.trials:
        print(f"# warm start from {len(warm.trials)} trials of {space.warm_start}")
    for _ in range(min(_SAMPLES, space.trials)):
        if study.over:
            break
        proposal = study.ask()
        drawn = yaml.safe_dump(proposal.parameters, sort_keys=False, default_flow_style=True, width=10_000).strip()
        print(f"# trial {proposal.number}, seed {proposal.config.seed}: {drawn}")
    return 0
