"""The three modes: everything is planned, and refused if need be, before anything runs."""

import sys

from core.interrupts import STATUS
from run.flags import CommandLine
from run.plan import plan_simulation
from run.report import Report, summary
from run.settings import gather, refuse_inert
from run.simulate import run_simulation, with_model
from run.train import plan_training, run_training

#: Exit statuses of a training by what stopped it; otherwise it is a success.
_STATUS = {"failure": 1, "interrupted": STATUS}


def run_mode(line: CommandLine) -> tuple[int, Report]:
    """Do what a command line says. Return the exit status and the report."""
    settings = gather(line)
    training = plan_training(settings["train"], simulated=line.mode == "both") if "train" in settings else None
    simulation = None
    if "simulate" in settings:
        simulation = plan_simulation(settings["simulate"], training.config if training is not None else None)
    plans = {"train": training, "simulate": simulation}
    refuse_inert((settings[mode], plan.situation) for mode, plan in plans.items() if plan is not None)

    reports = {}
    if training is not None:
        outcome, reports["train"] = run_training(training)
        if outcome.stopped_by in _STATUS:
            return _STATUS[outcome.stopped_by], reports["train"] if line.mode == "train" else reports
        if simulation is not None:
            assert outcome.last_checkpoint is not None
            simulation = with_model(simulation, outcome.last_checkpoint)
    if simulation is not None:
        try:
            reports["simulate"] = run_simulation(simulation)
        except KeyboardInterrupt:
            if training is None:
                raise
            print("\nthe simulation was interrupted", file=sys.stderr)  # the training's report is not lost
            return STATUS, reports
        print(summary(reports["simulate"]), file=sys.stderr)
    # What could not be written has been said, and is None.
    status = 2 if any(None in report["files"].values() for report in reports.values()) else 0
    return status, reports if line.mode == "both" else reports[line.mode]
