"""The mode simulate: run what was planned, write the files that were asked for, and report."""

import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Generator

from core.checkpoint import load_model, train_ic
from core.initial_conditions import unit_of_time
from core.orbits import Orbits, draw, forces_of
from core.record import Record
from core.simulation import simulate
from run import report
from run.encoders import WITHOUT_FFMPEG, find_ffmpeg
from run.keys import NETWORK_KEYS
from run.outputs import Files, draw_pictures, write_beside
from run.plan import ENDS, Plan
from run.simulation_progress import Goal, SimulationProgress
from run.trajectory import TrajectoryWriter, read_trajectories

#: Added to the seed of the systems that are drawn: a training with the same seed has not seen them.
SEED = 2**40 + 3


def with_model(plan: Plan, path: Path) -> Plan:
    """Give a plan the model that it was made for."""
    config = plan.config.model_copy(update={"model_path": str(path)})
    model = load_model(path, config.torch_device.type)
    return plan._replace(config=config, model=model, situation=plan.situation._replace(config=config))


def orbits_of(plan: Plan) -> Orbits:
    """Return the systems of a plan: a file's, the model's own, or drawn ones."""
    config, own = plan.config, plan.own
    count = config.num_orbits if own.multi_orbit_sim else 1
    if plan.systems is not None:
        return plan.systems
    if own.use_train_ic:
        assert plan.model is not None
        held = train_ic(str(config.model_path), plan.model).map(
            lambda tensor: tensor[:count].to(config.torch_device, config.torch_dtype)
        )
        state = forces_of(config).state(held.position, held.velocity, held.mass)
        return Orbits(state, unit_of_time(state.map(torch.Tensor.double), config.softening))
    return draw(config, count, Generator().manual_seed(SEED + int(config.seed or 0)))


def run_simulation(plan: Plan) -> report.Report:
    """Simulate, write the files that were asked for, and return the report."""
    config, own = plan.config, plan.own
    ffmpeg = find_ffmpeg() if config.movie else None
    if config.movie and ffmpeg is None:
        print(WITHOUT_FFMPEG, file=sys.stderr)
    orbits = orbits_of(plan)
    torch.set_float32_matmul_precision("high" if config.tf32 else "highest")
    files: Files = {}
    with ExitStack() as stack:
        target = own.save_trajectory
        if target is None and (own.plot is not None or config.movie):
            # Not in the system's temporary folder, which is often in memory.
            folder = Path(own.plot).parent if own.plot is not None else Path(config.movie_dir)
            folder.mkdir(parents=True, exist_ok=True)
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix=".trajectory-", dir=folder))
            target = str(Path(scratch) / "trajectory.npz")
        record, wall_time = _simulate(plan, orbits, target)
        if own.save_trajectory is not None:
            files["trajectory"] = own.save_trajectory
        if target is not None and (own.plot is not None or config.movie):
            files |= draw_pictures(
                read_trajectories(target), config, own, title=plan.criterion_summary, ffmpeg=ffmpeg
            )
    write_beside(files, plan.situation, _not_acting(plan))
    return report.make_report(plan, orbits, record, wall_time, files)


def _simulate(plan: Plan, orbits: Orbits, trajectory: str | None) -> tuple[Record, float]:
    config = plan.config
    with torch.no_grad(), ExitStack() as stack:
        writer = None
        if trajectory is not None:
            writer = stack.enter_context(TrajectoryWriter(trajectory, orbits.state))
        print(f"simulating {_what(plan, len(orbits.period))}: {plan.criterion_summary}", file=sys.stderr)
        forces = forces_of(config)
        progress = stack.enter_context(SimulationProgress(plan.criterion, forces, _goal(plan, orbits)))
        began = time.perf_counter()
        outcome = simulate(
            orbits.state,
            progress,
            forces,
            orbits.period,
            (config.Nperiod,) if "Nperiod" in plan.ends else (),
            duration=config.duration if "duration" in plan.ends else None,
            steps=config.steps if "steps" in plan.ends else None,
            n_steps=config.n_steps,
            step_rule=config.step_rule,
            threshold=config.energy_threshold,
            guard=config.energy_threshold if plan.own.guard else None,
            observer=writer,
        )
        if config.torch_device.type == "cuda":
            torch.cuda.synchronize()
        return outcome.records[-1], time.perf_counter() - began


def _goal(plan: Plan, orbits: Orbits) -> Goal:
    """What a simulation will reach if its steps do not end it before."""
    config, one = plan.config, torch.ones_like(orbits.period)
    if {"Nperiod", "duration"} <= plan.ends:
        assert config.duration is not None
        return Goal(1.0, (config.Nperiod * orbits.period).clamp_max(config.duration), "of the time")
    if "Nperiod" in plan.ends:
        return Goal(config.Nperiod, orbits.period, f"{report.unit_of_time(plan)}s")
    if "duration" in plan.ends:
        assert config.duration is not None
        return Goal(config.duration, one, "units of time")
    return Goal(config.steps, one, "steps", in_steps=True)


def _what(plan: Plan, count: int) -> str:
    config = plan.config
    ends = {
        "Nperiod": f"{config.Nperiod:g} {report.unit_of_time(plan)}s",
        "duration": f"a time of {config.duration}",
        "steps": f"{config.steps} steps",
    }
    until = " or ".join(ends[key] for key in ENDS if key in plan.ends)
    return f"{count} x {config.num_particles} bodies for {until}{', guarded' if plan.own.guard else ''}"


def _not_acting(plan: Plan) -> frozenset[str]:
    """Keys that did not act on this run, beside those that act together with others only."""
    return frozenset(ENDS) - plan.ends | (NETWORK_KEYS if plan.model is None else frozenset())
