"""Wall time of simulated steps, learned and classical, beside REBOUND: ``python benchmarks/simulation.py``.

One thread, float64. The first table is about two bodies, many orbits in a batch: a network of 64-64
(history 5, trained for some seconds), the dynamical criterion tuned to the network's own energy
error, and REBOUND's leapfrog (fixed steps, drift-kick-drift) and IAS15 tuned to that error, too. The second
is about one system of N bodies: what a step costs with and without a network, and how many steps a
network must save before it is worth that. REBOUND is an optional extra: pip install ".[reference]".
"""

import argparse
import math
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import rebound  # type: ignore[import-untyped]
import torch

from core.batch import take
from core.config import Config
from core.forces import Forces, State
from core.orbits import Orbits, draw
from core.simulation import simulate
from core.timestep import Criterion, Dynamical, Learned
from core.trainer import Trainer

BATCHES = (1, 100, 10_000)
BODIES = (2, 8, 32, 128, 512)
#: Orbits, and periods of each, on which errors are measured; REBOUND's take a Python call a step, so fewer.
ORBITS, PERIODS, REBOUND_ORBITS = 64, 10, 12
SOFTENING = 0.05
#: Time of flights of N bodies, a small part of a crossing time, and the error that all are tuned to.
FLIGHT, FLIGHT_ERROR = 0.5, 1e-6
IAS15_EPSILONS = (1e-9, 1e-6, 1e-4, 1e-2, 1e-1, 1.0)


class Cost(NamedTuple):
    """Energy error, steps a period (or flight), and seconds a step and orbit."""

    error: float
    steps: float
    seconds: float


def fastest(*functions: Callable[[], object], turns: int = 5) -> list[float]:
    """Shortest time of each function, called in turn so that all meet the same machine."""
    times = [[math.inf] for _ in functions]
    for turn in range(turns + 1):
        for function, taken in zip(functions, times, strict=True):
            began = time.perf_counter()
            function()
            if turn:  # the first warms up
                taken.append(time.perf_counter() - began)
    return [min(taken) for taken in times]


def tuned(measure: Callable[[float], Cost], setting: float, error: float) -> tuple[float, Cost]:
    """Change a setting, in which the energy error is of second order, until that is within 10 % of ``error``."""
    for _ in range(8):
        cost = measure(setting)
        if abs(math.log(cost.error / error)) < 0.1:
            break
        setting *= math.sqrt(error / cost.error)
    return setting, cost


# Ours ----------------------------------------------------------------------------------------------


def configured(**settings: Any) -> Config:
    """The settings of both tables: those of the shipped search spaces."""
    shared: dict[str, Any] = {
        "hidden_dims": (64, 64), "history_len": 5, "n_steps": 1, "dropout": 0.0, "dt_scale": "pair", "lr": 2e-3,
        "normalize_inputs": True, "bounds_relative": True, "weight_decay": 0.0, "energy_threshold": 1e-4,
        "num_orbits": 16, "steps_per_epoch": 16, "replay_steps": 60, "replay_batch_size": 128, "epochs": 40,
        "device": "cpu", "seed": 0,
    }  # fmt: skip
    return Config(**shared | settings)


def trained(config: Config) -> Learned:
    """A criterion after the config's epochs."""
    trainer = Trainer([config])
    for _ in range(config.epochs):
        trainer.train_epoch()
    return trainer.criterion(0)


def flown(orbits: Orbits, criterion: Criterion, forces: Forces, **end: Any) -> Cost:
    """Median error, steps and time a step of a batch that is simulated to its end."""
    began = time.perf_counter()
    record = simulate(orbits.state, criterion, forces, orbits.period, fail_above=math.inf, **end).records[0]
    taken = time.perf_counter() - began
    steps = record.steps.double()
    return Cost(float(record.max_rel_dE.median()), float(steps.median()), taken / float(steps.sum()))


def seconds_a_step(orbits: Orbits, criteria: Sequence[Criterion], forces: Forces) -> list[float]:
    """Seconds a step and orbit of each criterion in a batch, all systems of which take the same number of steps."""
    count, bodies = orbits.state.mass.shape
    steps = max(20, min(500, 2_000_000 // (count * bodies**2)))
    runs = [
        partial(simulate, orbits.state, criterion, forces, orbits.period, steps=steps, fail_above=math.inf)
        for criterion in criteria
    ]
    return [taken / (count * steps) for taken in fastest(*runs)]


# REBOUND -------------------------------------------------------------------------------------------


def rebound_of(orbits: Orbits, number: int, softening: float, integrator: str, setting: float) -> Any:
    """One system in REBOUND; ``setting`` is the dt of its leapfrog or the epsilon of IAS15."""
    simulation = rebound.Simulation()
    simulation.integrator, simulation.softening = integrator, softening
    position, velocity, mass = orbits.state.position[number], orbits.state.velocity[number], orbits.state.mass[number]
    for (x, y, *z), (vx, vy, *vz), m in zip(position.tolist(), velocity.tolist(), mass.tolist(), strict=True):
        simulation.add(m=m, x=x, y=y, z=sum(z), vx=vx, vy=vy, vz=sum(vz))
    if integrator == "ias15":
        simulation.integrator.epsilon = setting
        simulation.dt = 1e-3
    else:
        simulation.dt = setting
    return simulation


def energy_of(simulation: Any, forces: Forces) -> float:
    """Total energy; REBOUND's own leaves the softening out."""
    if not forces.softening:
        return float(simulation.energy())
    position, velocity = np.empty((simulation.N, 3)), np.empty((simulation.N, 3))
    mass = np.empty(simulation.N)
    simulation.serialize_particle_data(xyz=position, vxvyvz=velocity, m=mass)
    x, v, m = (torch.from_numpy(array) for array in (position, velocity, mass))
    return float(forces.energy(State(x, v, x, m))[0])


def rebound_flown(
    orbits: Orbits, count: int, softening: float, integrator: str, settings: Sequence[float], end: float
) -> Cost:
    """Median error, steps a period and time a step of ``count`` systems, one after the other, for ``end`` periods."""
    errors, steps, seconds, forces = [], [], [], Forces(softening)
    for number in range(count):
        last = end * float(orbits.period[number])
        watched = rebound_of(orbits, number, softening, integrator, settings[number])
        energies: list[float] = []
        watched.heartbeat = lambda held, energies=energies: energies.append(energy_of(held.contents, forces))
        watched.integrate(last, exact_finish_time=0)
        timed = rebound_of(orbits, number, softening, integrator, settings[number])
        began = time.perf_counter()
        timed.integrate(last, exact_finish_time=0)
        seconds.append((time.perf_counter() - began) / timed.steps_done)
        errors.append(max(abs(energy - energies[0]) for energy in energies) / abs(energies[0]))
        steps.append(timed.steps_done / end)
    return Cost(*(statistics.median(values) for values in (errors, steps, seconds)))


def ias15_flown(orbits: Orbits, count: int, softening: float, end: float, error: float) -> Cost:
    """IAS15 with the loosest epsilon that keeps the error; with its default it is exact to round-off."""
    best = rebound_flown(orbits, count, softening, "ias15", [IAS15_EPSILONS[0]] * count, end)
    for epsilon in IAS15_EPSILONS[1:]:
        cost = rebound_flown(orbits, count, softening, "ias15", [epsilon] * count, end)
        if cost.error > error:
            break
        best = min(best, cost, key=lambda one: one.steps * one.seconds)
    return best


# Tables --------------------------------------------------------------------------------------------


def two_bodies() -> float:
    """Print the table of two bodies; return how many times fewer steps the network needs than the criterion."""
    config = configured(stop_at_period=True)
    orbits = draw(config, max(BATCHES), torch.Generator().manual_seed(2**40 + 5))
    some: Orbits = take(orbits, torch.arange(ORBITS))
    forces, end = Forces(), {"periods": (PERIODS,)}
    network = trained(config)
    learned = flown(some, network, forces, **end)
    eps, dynamical = tuned(lambda eps: flown(some, Dynamical(eps), forces, **end), 0.05, learned.error)

    def leapfrog(share: float) -> Cost:
        return rebound_flown(some, REBOUND_ORBITS, 0, "leapfrog", (share * some.period).tolist(), PERIODS)

    _, fixed = tuned(leapfrog, 3e-3, learned.error)
    ias15 = ias15_flown(some, REBOUND_ORBITS, 0, PERIODS, learned.error)
    steps = {"learned": learned.steps / PERIODS, "dynamical": dynamical.steps / PERIODS}
    reference = fixed.steps * fixed.seconds
    print(f"Two bodies, all at a median max |dE/E| of {learned.error:.1e} over {PERIODS} periods (eps {eps:.3f}).\n")
    print(
        "| integrator | orbits | steps a period | step and orbit, us | period and orbit, us | / REBOUND leapfrog |"
        "\n|---|---|---|---|---|---|"
    )
    for batch in BATCHES:
        part: Orbits = take(orbits, torch.arange(batch))
        taken = seconds_a_step(part, [network, Dynamical(eps)], forces)
        for name, seconds in zip(("learned", "dynamical"), taken, strict=True):
            row(name, batch, steps[name], seconds, reference)
    row("REBOUND leapfrog", 1, fixed.steps, fixed.seconds, reference)
    row(f"REBOUND IAS15 (error {ias15.error:.0e})", 1, ias15.steps, ias15.seconds, reference)
    return steps["dynamical"] / steps["learned"]


def row(name: str, batch: int, steps: float, seconds: float, reference: float) -> None:
    """Print one line of the first table."""
    period = steps * seconds
    numbers = " | ".join(short(value) for value in (steps, 1e6 * seconds, 1e6 * period, period / reference))
    print(f"| {name} | {batch} | {numbers} |")


def short(value: float) -> str:
    """Three digits, and never an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def many_bodies(gain: float) -> None:
    """Print the tables of N bodies."""
    forces = Forces(SOFTENING)
    costs, flights = [], []
    for bodies in BODIES:
        # Masses of 1 in all, positions and speeds of a system near virial equilibrium (two bodies: a mild ellipse).
        config = configured(
            num_particles=bodies, dim=3, mass=1 / bodies, pos_scale=1.0, vel_scale=0.3, softening=SOFTENING,
            e_min=0.2, e_max=0.3, num_orbits=1,
        )  # fmt: skip
        orbits = draw(config, 1, torch.Generator().manual_seed(1))
        orbits = orbits._replace(period=torch.ones(1, dtype=torch.float64))
        network = Trainer([config]).criterion(0)
        plain, learned = seconds_a_step(orbits, [Dynamical(0.05), network], forces)
        (asked,) = fastest(partial(ask, network, orbits), turns=50)
        dynamical = tuned(partial(dynamical_flight, orbits, forces), 0.02, FLIGHT_ERROR)[1]
        fixed = tuned(partial(leapfrog_flight, orbits), 3e-3, FLIGHT_ERROR)[1]
        ias15 = ias15_flown(orbits, 1, SOFTENING, FLIGHT, FLIGHT_ERROR)
        costs.append(
            f"| {bodies} | {1e6 * plain:.0f} | {1e6 * learned:.0f} | {learned / plain:.2f} | {1e6 * asked:.0f} | "
            f"{short(1e6 * fixed.seconds)} | {short(1 + asked / fixed.seconds)} |"
        )
        cells = (f"{short(1e3 * cost.steps * cost.seconds)} ({cost.steps:.0f})" for cost in (dynamical, fixed, ias15))
        ratio = dynamical.steps * dynamical.seconds / (fixed.steps * fixed.seconds)
        flights.append(f"| {bodies} | {' | '.join(cells)} | {short(ratio)} |")
    print(
        "\nOne system of N bodies: microseconds a step, and how many times fewer steps a network must need.\n\n"
        "| N | dynamical | learned | gain needed | the network alone | REBOUND leapfrog | gain needed there |"
        f"\n|{'---|' * 7}"
    )
    print(*costs, sep="\n")
    print(f"\nThe network of the first table needs {gain:.2f} times fewer steps than the dynamical criterion.")
    print(
        f"\nFlights of {FLIGHT:g} at a max |dE/E| of {FLIGHT_ERROR:g}: milliseconds (steps).\n\n"
        f"| N | dynamical | REBOUND leapfrog | REBOUND IAS15 | dynamical / REBOUND leapfrog |\n|{'---|' * 5}"
    )
    print(*flights, sep="\n")


def dynamical_flight(orbits: Orbits, forces: Forces, eps: float) -> Cost:
    """A flight of N bodies with our leapfrog and the dynamical criterion."""
    return flown(orbits, Dynamical(eps), forces, duration=FLIGHT)


def leapfrog_flight(orbits: Orbits, dt: float) -> Cost:
    """A flight of N bodies with REBOUND's leapfrog; the period of ``orbits`` is 1."""
    return rebound_flown(orbits, 1, SOFTENING, "leapfrog", [dt], FLIGHT)


def ask(network: Learned, orbits: Orbits) -> None:
    """One proposal and the window's slide after it."""
    memory = network.init(orbits.state)
    network.propose(orbits.state, memory)
    network.advance(memory, orbits.state, orbits.period)


def main() -> None:
    """Print both tables."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", "At least 10 predictor", RuntimeWarning)  # epsilons too loose for IAS15 are tried
    with torch.no_grad():
        many_bodies(two_bodies())


if __name__ == "__main__":
    main()
