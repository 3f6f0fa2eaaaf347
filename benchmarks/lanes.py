"""What lanes cost: ``python benchmarks/lanes.py`` (a few minutes; ``--quick`` takes seconds and says little).

K trainings of a 64-64 network advance in one trainer: 8 orbits each, float64, n_steps 1, dropout 0, pair scaling, one
thread, features and histories that differ from lane to lane. A tick of phase 2 (one minibatch update of each lane)
stands beside its floor in the same run: batched products forward and backward, activations and fused Adam of those
shapes, nothing else. A lane-tick is one lane's share of a tick; ratios are to one lane, that is, one training alone.
Times are the thread's, the least of many: other programs only add to them. Memory is what a lane adds.
"""

import argparse
import time
from collections.abc import Callable

import torch

from core.config import Config
from core.held_out import held_out
from core.network import FullyConnectedNN
from core.optimizer import Optimizer
from core.pack_size import replaying
from core.scores import References, evaluate, evaluating
from core.simulation import land
from core.trainer import Trainer

LANES, ROWS = (1, 4, 16, 64), (8, 32, 128, 512)
PASTS = (("basic", 0), ("delta_mag", 2), ("rich", 1), ("delta_mag", 4))
NEVER = 2**62


def config_of(lane: int, rows: int, **settings: object) -> Config:
    """Return a lane's config; lanes differ in what the lanes of a search differ in."""
    kind, history_len = PASTS[lane % len(PASTS)]
    values = {
        "hidden_dims": (64, 64),
        "n_steps": 1,
        "dropout": 0.0,
        "dt_scale": "pair",
        "bounds_relative": True,
        "weight_decay": 0.0,
        "num_orbits": 8,
        "steps_per_epoch": 16,
        "replay_steps": 60,
        "replay_batch_size": rows,
        "feature_type": kind,
        "history_len": history_len,
        "lr": 1e-3 * (1 + lane % 7),
        "energy_threshold": 1e-3 * (1 + lane % 5),
        "eval_periods": (1,),
        "seed": lane,
    }
    return Config.from_mapping(values | settings)


def synchronise(device: str) -> None:
    """Wait for a GPU."""
    if device == "cuda":
        torch.cuda.synchronize()


def least_ms(functions: list[Callable[[], object]], repeats: int, device: str) -> list[float]:
    """Least times of functions that are run in turn, in milliseconds of this thread (of the clock on a GPU)."""
    clock = time.perf_counter if device == "cuda" else time.thread_time
    taken: list[list[float]] = [[] for _ in functions]
    for repeat in range(repeats + 3):
        for function, times in zip(functions, taken, strict=True):
            synchronise(device)
            begun = clock()
            function()
            synchronise(device)
            if repeat >= 3:
                times.append(1e3 * (clock() - begun))
    return [min(times) for times in taken]


def collecting(lanes: int, **settings: str) -> Trainer:
    """Return a trainer whose lanes are all in phase 1 and stay there."""
    trainer = Trainer([config_of(lane, 32, steps_per_epoch=NEVER, **settings) for lane in range(lanes)])
    for _ in range(200):
        trainer.tick()
    return trainer


def make_floor(trainer: Trainer, rows: int) -> Callable[[], None]:
    """Products, activations and fused Adam of the trainer's shapes, on ``rows`` rows for each lane."""
    network, configs = trainer.network, [lane.config for lane in trainer.lanes]
    copy = FullyConnectedNN(
        network.input_widths, trainer.config.hidden_dims, "tanh", network.flat.dtype, network.flat.device
    )
    copy.flat.copy_(network.flat)
    optimizer, all_lanes = Optimizer(configs, copy.flat), range(len(configs))
    inputs = copy.embed(torch.randn(len(configs), rows, max(network.input_widths)).to(copy.flat))
    slope = torch.randn(len(configs), inputs.shape[1], 2).to(copy.flat)

    def step() -> None:
        copy.backward(copy.forward(inputs), slope, copy.views(optimizer.gradient))
        optimizer.step(all_lanes, all_lanes)

    return step


def bytes_of(trainer: Trainer) -> int:
    """Memory of a trainer's tensors but for the samples it has collected."""
    held, optimizer = trainer.collection, trainer.optimizer
    moments = list(optimizer.moments.values())
    tensors = [trainer.network.flat, trainer.network.flat, *moments, *held.state, held.elapsed, held.period]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def ticks(lanes: tuple[int, ...], all_rows: tuple[int, ...], repeats: int, device: str, dtype: str) -> None:
    """Print the table of ticks."""
    print("| tick | rows | lanes | ms | floor, ms | us a lane-tick | lane-ticks a second | over one lane |")
    print("|---|---|---|---|---|---|---|---|")
    for rows in (0, *all_rows):
        one = 0.0
        for count in lanes:
            fewer = max(5, repeats * 32 // (max(32, rows) * max(1, count // 4)))
            if rows:
                trainer = replaying([config_of(lane, rows, device=device, dtype=dtype) for lane in range(count)])
                tick, floor = least_ms([trainer.tick, make_floor(trainer, rows)], fewer, device)
            else:
                trainer, floor = collecting(count, device=device, dtype=dtype), float("nan")
                (tick,) = least_ms([trainer.tick], fewer, device)
            rate = 1e3 * count / tick
            one = one or rate
            label, shown = ("phase 2", f"{floor:.3f}") if rows else ("phase 1", "")
            print(
                f"| {label} | {rows or 8} | {count} | {tick:.3f} | {shown} | {1e3 * tick / count:.1f} | {rate:.0f} "
                f"| {rate / one:.2f} |",
                flush=True,
            )


def evaluations(lanes: tuple[int, ...], repeats: int, device: str, dtype: str) -> None:
    """Print the table of evaluations: 32 held-out orbits of each lane over a period."""
    print("\n| lanes scored together | s | s a lane | over one lane |\n|---|---|---|---|")
    one = 0.0
    for count in lanes:
        configs = [config_of(lane, 32, device=device, dtype=dtype) for lane in range(count)]
        trainer = Trainer(configs)
        criteria = [trainer.criterion(lane) for lane in range(count)]
        against = References(held_out(configs[0]), {})

        @torch.no_grad()
        def score(criteria: list = criteria, against: References = against) -> None:  # type: ignore[type-arg]
            if len(criteria) == 1:
                evaluate(criteria[0], criteria[0].config, against)
            else:
                land(evaluating(criteria, against))

        (taken,) = least_ms([score], max(1, repeats // 100), device)
        each = taken / 1e3 / count
        one = one or each
        print(f"| {count} | {taken / 1e3:.3f} | {each:.4f} | {one / each:.2f} |", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=300, help="timed ticks of one lane (default 300)")
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, help="replay rows (default 8 32 128 512)")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="where the tensors live")
    parser.add_argument("--dtype", choices=["float64", "mixed", "float32"], default="float64", help="precision")
    parser.add_argument("--quick", action="store_true", help="few lanes, rows and repeats")
    given = parser.parse_args()
    torch.set_num_threads(1)
    lanes, rows, repeats = ((1, 4), (8, 32), 5) if given.quick else (LANES, tuple(given.rows), given.repeats)
    ticks(lanes, rows, repeats, given.device, given.dtype)
    evaluations(lanes, repeats, given.device, given.dtype)
    trainer = Trainer([config_of(lane, 32, device=given.device, dtype=given.dtype) for lane in range(4)])
    sample = trainer.shape.width * trainer.buffer.data.element_size()
    print(f"\nMemory of a lane: {bytes_of(trainer) / 4 / 1024:.0f} KiB, and {sample} bytes for each sample it keeps.")


if __name__ == "__main__":
    main()
