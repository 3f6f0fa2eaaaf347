"""Time of one training tick beside its floor: ``python benchmarks/training.py``.

One thread, float64, n_steps 1, dropout 0, 8 orbits, delta_mag with history 5. The floor is the least
that any training of the same network on the same batch must do: forward, backward and fused Adam
of a plain ``torch.nn.Sequential``. Both are timed in turn, in one run; the table shows medians.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from itertools import pairwise

import torch

from core.config import Config
from core.lane import Phase
from core.trainer import Trainer

NETWORKS = {"200-1000-1000-200": (200, 1000, 1000, 200), "64-64": (64, 64)}
NEVER = 2**62


def make_trainer(hidden_dims: tuple[int, ...], batch: int, *, reject: bool) -> Trainer:
    """Return a trainer whose proposals are all rejected (phase 1), or one that replays 1024 samples (phase 2)."""
    threshold = 1e-20 if reject else 2e-4
    config = Config(
        hidden_dims=hidden_dims,
        replay_batch_size=batch,
        energy_threshold=threshold,
        bounds_relative=True,
        n_steps=1,
        dropout=0.0,
        num_orbits=8,
        history_len=5,
        dt_scale="pair",
        steps_per_epoch=128,
        max_retrain_steps=0,
        replay_steps=10,
        lr=1e-6,
        seed=0,
        device="cpu",
    )
    trainer = Trainer([config])
    if not reject:
        trainer.train_epoch()
        trainer.lanes[0].phase, trainer.lanes[0].next_verdict = Phase.REPLAY, NEVER
    return trainer


def make_floor(trainer: Trainer, rows: int) -> Callable[[], None]:
    """Forward, backward and fused Adam of a plain network of the same shape on ``rows`` inputs."""
    config = trainer.config
    widths = [trainer.shape.inputs, *config.hidden_dims, 2]
    layers: list[torch.nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        layers += [torch.nn.Linear(fan_in, fan_out), torch.nn.Tanh()]
    network = torch.nn.Sequential(*layers[:-1]).double()
    optimizer = torch.optim.Adam(network.parameters(), lr=config.lr, weight_decay=config.weight_decay, fused=True)
    inputs = torch.randn(rows, widths[0], dtype=torch.float64)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        network(inputs).square().mean().backward()
        optimizer.step()

    return step


def interleaved(first: Callable[[], object], second: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median time of each of two functions in milliseconds, run in turn so that both meet the same machine."""
    times: tuple[list[float], list[float]] = ([], [])
    for repeat in range(repeats + repeats // 5):
        for function, taken in zip((first, second), times, strict=True):
            start = time.perf_counter()
            function()
            if repeat >= repeats // 5:
                taken.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[0]), statistics.median(times[1])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=300, help="timed ticks of each kind (default 300)")
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    print("| network | tick | rows | tick, ms | floor, ms | ratio |")
    print("|---|---|---|---|---|---|")
    for name, hidden_dims in NETWORKS.items():
        for label, rows in (("phase 1", 8), ("phase 2", 32), ("phase 2", 512)):
            trainer = make_trainer(hidden_dims, rows if rows > 8 else 32, reject=label == "phase 1")
            tick, floor = interleaved(trainer.tick, make_floor(trainer, rows), repeats if rows < 512 else repeats // 3)
            print(f"| {name} | {label} | {rows} | {tick:.3f} | {floor:.3f} | {tick / floor:.2f} |", flush=True)
        lane = trainer.lanes[0]

        def verdict(trainer: Trainer = trainer) -> None:
            with torch.no_grad():
                trainer.judge([0])

        samples = trainer.buffer.count(0) + trainer.buffer.cold_count(0)
        taken, _ = interleaved(verdict, lambda: None, max(5, repeats // 10))
        lane.next_verdict = NEVER
        print(f"| {name} | verdict (no gradient) | {samples} | {taken:.3f} | | |", flush=True)


if __name__ == "__main__":
    main()
