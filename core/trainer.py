"""Two-phase training of L lanes in lockstep (DESIGN.md section 6).

Phase 1 (collect): every orbit proposes a step and is accepted alone if its rel_dE is below
energy_threshold; a rejected one stays, and its lane takes a gradient step on the rejected ones.
Phase 2 (replay): minibatches of accepted states, until a verdict over all of them passes.

One tick is one forward pass, at most one backward pass and one optimizer step for each lane. A lane
does not depend on its neighbours: its products are batched, its random numbers are its own.
"""

import secrets
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from core.collection import Collection
from core.config import Config
from core.errors import ConfigError
from core.features import InputScales
from core.history import input_width
from core.lane import EpochRecord, Lane, Phase, make_optimizer
from core.leapfrog import Block, leapfrog, leapfrog_with_slope
from core.loss import Band, band_loss
from core.network import Forward, FullyConnectedNN
from core.orbits import forces_of
from core.replay import VERDICT_EVERY, draw_minibatch, plan_replay
from core.samples import SampleBuffer, Samples, SampleShape
from core.timestep import Dynamical, Learned, proposed_step

#: Keys in which the lanes of one pack may differ.
LANE_KEYS = frozenset(
    "lr weight_decay energy_threshold E_lower E_upper bounds_relative dt_bound history_len feature_type seed epochs "
    "steps_per_epoch max_retrain_steps replay_steps replay_batch_size min_replay_size replay_capacity timid_fraction "
    "num_orbits stop_at_period e_min e_max a_min a_max eval_periods evaluate_every eps Nperiod".split()
)
#: Samples of one pass of a verdict.
_VERDICT_CHUNK = 4096

Layers = list[tuple[Tensor, Tensor]]


class TrainingFailed(RuntimeError):
    """A lane cannot go on; the message says why."""


class Selection(NamedTuple):
    """The lanes that take part in a batch: their numbers, where they stand in (L, ...) tensors, and their layers."""

    lanes: list[int]
    where: slice | Tensor
    layers: Layers


class Attempt(NamedTuple):
    """A proposed block and what it did to the energy: dt (one leapfrog step) and rel_dE are (L, B)."""

    dt: Tensor
    block: Block
    change: Tensor
    slope: Tensor
    rel_dE: Tensor


class Trainer:
    """Trains the lanes that ``configs`` describe. Raises ConfigError if they do not fit into one pack."""

    def __init__(self, configs: Sequence[Config]):
        configs = [
            config if config.seed is not None else config.model_copy(update={"seed": secrets.randbits(32)})
            for config in configs
        ]
        _check_pack(configs)
        first = self.config = configs[0]
        device, dtype = first.torch_device, first.torch_dtype
        self.forces = forces_of(first)
        widths = [input_width(config) for config in configs]
        self.network = FullyConnectedNN(widths, first.hidden_dims, first.activation, dtype, device)
        self._gradient = torch.zeros_like(self.network.flat)
        self.collection = Collection(configs, self.forces)
        generators = [torch.Generator().manual_seed(int(config.seed or 0)) for config in configs]
        for index, (config, generator) in enumerate(zip(configs, generators, strict=True)):
            self.collection.start(index, range(config.num_orbits), generator)
        self.collection.fill_unused()
        fitted = [
            self.collection.fit_scales(index) if config.normalize_inputs else InputScales()
            for index, config in enumerate(configs)
        ]
        self.lanes: list[Lane] = []
        self.collection.open(fitted)
        for index, config in enumerate(configs):
            self.network.initialize(index, generators[index], self._first_output(index))
            parameter = torch.nn.Parameter(self.network.flat[index])
            optimizer = make_optimizer(config, parameter)
            start = self.collection.own_state(index).map(torch.clone)
            self.lanes.append(Lane(config, generators[index], fitted[index], parameter, optimizer, start))
        self.shape = SampleShape(max(widths), first.num_particles, first.dim)
        self.buffer = SampleBuffer(
            [config.num_orbits * config.history_len * 8 for config in configs],
            [config.replay_capacity for config in configs],
            self.shape,
            self.network.flat,
        )

        def column(values: list[float]) -> Tensor:
            return torch.tensor(values, device=device, dtype=dtype).unsqueeze(1)

        self._threshold = column([config.energy_threshold for config in configs])
        self._lower = column([config.energy_band[0] for config in configs])
        self._upper = column([config.energy_band[1] for config in configs])
        self._dt_bound = column([config.dt_bound for config in configs])
        self._warm_up = torch.tensor([[config.history_len] for config in configs], device=device)
        self._quota = torch.tensor([[config.steps_per_epoch] for config in configs], device=device)
        self._cap = torch.tensor([[config.max_retrain_steps or 2**62] for config in configs], device=device)
        self._one_period = torch.tensor([[config.stop_at_period] for config in configs], device=device)

    def train_epoch(self) -> EpochRecord:
        """Run a single lane to the end of its epoch. Raises TrainingFailed where it cannot go on."""
        if len(self.lanes) != 1:
            raise ValueError(f"train_epoch trains one lane, but there are {len(self.lanes)}; use tick.")
        while True:
            finished = self.tick()
            if self.lanes[0].failure is not None:
                raise TrainingFailed(self.lanes[0].failure)
            if finished:
                return finished[0]

    @torch.no_grad()
    def tick(self) -> dict[int, EpochRecord]:
        """Advance every lane that has not failed by one tick; return the records of epochs that ended, by lane."""
        alive = [index for index, lane in enumerate(self.lanes) if lane.failure is None]
        collecting = [index for index in alive if self.lanes[index].phase is Phase.COLLECT]
        replaying = [index for index in alive if self.lanes[index].phase is Phase.REPLAY]
        if collecting:
            self._collect(self._select(collecting))
        finished = {}
        for index in replaying:
            lane = self.lanes[index]
            if lane.record.replay_updates >= lane.next_verdict and self.judge(index):
                finished[index] = self._finish(index)
        updating = [index for index in replaying if index not in finished]
        if updating:
            self._replay(self._select(updating))
        for index in collecting:
            if self.lanes[index].phase is Phase.COLLECT and self._collection_is_over(index):
                if self.buffer.count(index) < self.lanes[index].config.min_replay_size:
                    finished[index] = self._finish(index)
                else:
                    self._begin_replay(index)
        return finished

    def criterion(self, lane: int = 0) -> Learned:
        """Return the lane's network as a step criterion, on a copy of its weights."""
        held = self.lanes[lane]
        network = FullyConnectedNN(
            [input_width(held.config)],
            held.config.hidden_dims,
            held.config.activation,
            held.config.torch_dtype,
            held.config.torch_device,
        )
        own = network.named(network.flat[0], 0)
        for name, tensor in self.network.named(self.network.flat[lane], lane).items():
            own[name].copy_(tensor)
        return Learned(held.config, held.scales, network)

    def rescale(self, lane: int, scales: InputScales) -> None:
        """Give a lane the input scales that it was trained with."""
        self.lanes[lane].scales = scales
        self.collection.open([held.scales for held in self.lanes])

    # Phase 1 ---------------------------------------------------------------------------------------

    def _collect(self, chosen: Selection) -> None:
        held, index = self.collection, chosen.where
        samples = held.samples().pick(index)
        active = (held.exists & ~held.ended & (held.collected < self._quota))[index]
        forward = self.network.forward(self.network.pad(samples.inputs), chosen.layers)
        attempt = self._attempt(samples, forward, chosen)
        accepted = active & (attempt.rel_dE < self._threshold[index])  # a NaN is not accepted
        rejected = active & ~accepted
        counts = torch.stack([accepted.sum(-1), rejected.sum(-1)]).tolist()
        for lane, taken, refused in zip(chosen.lanes, *counts, strict=True):
            self.lanes[lane].record.accepted += taken
            self.lanes[lane].record.rejected += refused
        if any(counts[1]):
            self._retrain(chosen, samples, forward, attempt, rejected, counts[1])
        if any(counts[0]):
            self._record_and_move(chosen, samples, attempt, accepted)

    def _retrain(
        self,
        chosen: Selection,
        samples: Samples,
        forward: Forward,
        attempt: Attempt,
        rejected: Tensor,
        counts: list[int],
    ) -> None:
        """One gradient step on the rejected states of each lane that has any; too many make an orbit stuck."""
        held = self.collection
        refused = [count > 0 for count in counts]
        self._descend(chosen, samples, forward, attempt, rejected, refused)
        tries = held.tries[chosen.where] + rejected
        held.tries[chosen.where] = tries
        stuck = rejected & (tries >= self._cap[chosen.where])
        held.ended[chosen.where] |= stuck
        for lane, count, has_any in zip(chosen.lanes, stuck.sum(-1).tolist(), refused, strict=True):
            self.lanes[lane].record.stuck_orbits += count
            self.lanes[lane].record.retrain_steps += has_any

    def _record_and_move(self, chosen: Selection, samples: Samples, attempt: Attempt, accepted: Tensor) -> None:
        """Store the accepted states (warm-up ones as cold starts), and let their orbits take the step."""
        held, lanes = self.collection, len(self.lanes)
        warm = held.age < self._warm_up
        packed = samples.pack()
        errors = torch.where(accepted, attempt.rel_dE, 0).sum(-1).tolist()
        steps = torch.where(accepted, attempt.dt, 0).sum(-1).tolist()
        for row, lane in enumerate(chosen.lanes):
            self.lanes[lane].error_sum += errors[row]
            self.lanes[lane].dt_sum += steps[row]
            cold = warm[lane]
            if self.lanes[lane].config.history_len:
                starts = packed[row, accepted[row] & cold]
                if len(starts):
                    self.buffer.push_cold(lane, starts)
            recorded = packed[row, accepted[row] & ~cold]
            if len(recorded):
                self.buffer.push(lane, recorded)
        block_dt = attempt.dt * self.config.n_steps
        block = attempt.block
        if len(chosen.lanes) < lanes:
            accepted, block_dt, block = self._spread(chosen, accepted, block_dt, block)
        held.move(accepted, block, block_dt, warm)
        held.ended |= self._one_period & held.exists & (held.elapsed >= held.period)

    def _spread(self, chosen: Selection, accepted: Tensor, dt: Tensor, block: Block) -> tuple[Tensor, Tensor, Block]:
        """Put the chosen lanes' results among all lanes; the others accept nothing."""
        held = self.collection
        all_accepted, all_dt = torch.zeros_like(held.exists), torch.zeros_like(held.energy)
        state = held.state.map(torch.clone)
        kinetic, potential = torch.zeros_like(held.energy), torch.zeros_like(held.energy)
        pairs = zip(
            (all_accepted, all_dt, *state, kinetic, potential),
            (accepted, dt, *block.state, block.kinetic, block.potential),
            strict=True,
        )
        for target, value in pairs:
            target[chosen.where] = value
        return all_accepted, all_dt, Block(state, kinetic, potential)

    def _collection_is_over(self, lane: int) -> bool:
        held = self.collection
        waiting = held.exists[lane] & ~held.ended[lane] & (held.collected[lane] < self._quota[lane])
        return not bool(waiting.any())

    # Phase 2 ---------------------------------------------------------------------------------------

    def _begin_replay(self, index: int) -> None:
        self.lanes[index].phase = Phase.REPLAY
        plan_replay(self.lanes[index], self.buffer, index)

    def _replay(self, chosen: Selection) -> None:
        """One minibatch update of each chosen lane, with the loss on both sides of the band."""
        drawn = [draw_minibatch(self.lanes[lane], self.buffer, lane) for lane in chosen.lanes]
        packed, present = self.buffer.gather(chosen.lanes, drawn)
        samples = self.shape.unpack(packed)
        forward = self.network.forward(self.network.pad(samples.inputs), chosen.layers)
        attempt = self._attempt(samples, forward, chosen)
        self._descend(chosen, samples, forward, attempt, present, [True] * len(drawn))
        for lane in chosen.lanes:
            self.lanes[lane].record.replay_updates += 1

    def judge(self, index: int) -> bool:
        """Judge every sample of a lane without gradient. Return whether its phase 2 is over."""
        lane = self.lanes[index]
        rows = self.buffer.rows(index)
        chosen = self._select([index])
        below = timid = 0
        for chunk in torch.split(rows, _VERDICT_CHUNK):
            samples = self.shape.unpack(chunk.unsqueeze(0))
            output = self.network(self.network.pad(samples.inputs), chosen.layers)[:, : len(chunk), 0]
            dt = proposed_step(output, samples.unit, self._dt_bound[chosen.where])
            block = leapfrog(samples.state, dt, self.forces, self.config.n_steps)
            error = (block.energy - samples.energy).abs() / samples.scale
            below += int((error < self._threshold[chosen.where]).sum())
            timid += int((error < self._lower[chosen.where]).sum())
        record = lane.record
        record.pass_fraction, record.timid_share = below / len(rows), timid / len(rows)
        passed = below == len(rows) and record.timid_share <= lane.config.timid_fraction
        record.converged = passed and not record.stuck_orbits
        lane.next_verdict = min(record.replay_updates + VERDICT_EVERY, lane.config.replay_steps)
        return passed or record.replay_updates >= lane.config.replay_steps

    # Both ------------------------------------------------------------------------------------------

    def _select(self, lanes: list[int]) -> Selection:
        if len(lanes) == len(self.lanes):
            return Selection(lanes, slice(None), self.network.layers)
        if len(lanes) == 1:
            index: slice | Tensor = slice(lanes[0], lanes[0] + 1)
        else:
            index = torch.tensor(lanes, device=self.network.flat.device)
        return Selection(lanes, index, self.network.views(self.network.flat[index]))

    def _attempt(self, samples: Samples, forward: Forward, chosen: Selection) -> Attempt:
        output = forward.output[:, : samples.energy.shape[1], 0]
        dt = proposed_step(output, samples.unit, self._dt_bound[chosen.where])
        block, slope = leapfrog_with_slope(samples.state, dt, self.forces, self.config.n_steps)
        change = block.energy - samples.energy
        return Attempt(dt, block, change, slope, change.abs() / samples.scale)

    def _descend(
        self,
        chosen: Selection,
        samples: Samples,
        forward: Forward,
        attempt: Attempt,
        included: Tensor,
        updating: list[bool],
    ) -> None:
        """One optimizer step on the mean band loss of each lane's ``included`` (L, B) samples.

        With dropout the pass whose gradient is taken is a second one, with masks: verdicts never see it.
        """
        if self.config.dropout:
            generators = [self.lanes[lane].generator for lane in chosen.lanes]
            masks = self.network.dropout_masks(self.config.dropout, included, generators)
            forward = self.network.forward(self.network.pad(samples.inputs), chosen.layers, masks)
            attempt = self._attempt(samples, forward, chosen)
        band = Band(self._lower[chosen.where].log(), self._upper[chosen.where].log())
        loss = band_loss(attempt.change, samples.scale, attempt.slope, attempt.dt, band)
        weight = included / included.sum(-1, keepdim=True).clamp_min(1)
        slope = torch.where(included, loss.slope * weight, 0)
        value = torch.where(included, loss.value * weight, 0).sum(-1)
        gradient = torch.zeros_like(forward.output)
        gradient[:, : slope.shape[1], 0] = slope
        flat = self._gradient[: len(chosen.lanes)]
        self.network.backward(forward, gradient, self.network.views(flat), chosen.layers)
        losses, checks = torch.stack([value, slope.sum(-1) + value]).tolist()
        for row, lane in enumerate(chosen.lanes):
            if updating[row]:
                self.lanes[lane].update(flat[row], losses[row], finite=abs(checks[row]) < float("inf"))

    def _finish(self, index: int) -> EpochRecord:
        record = self.lanes[index].finish_epoch(self.buffer.count(index))
        self.collection.begin_epoch(self.lanes[index], index)
        return record

    def _first_output(self, lane: int) -> float:
        """Return the logarithm of the first proposal: the dynamical criterion's step on the lane's initial orbits."""
        held = self.collection
        state = held.own_state(lane)
        criterion = Dynamical(held.configs[lane].eps)
        tau = criterion.propose(state, criterion.init(state))
        return float((tau / held.unit[lane, : len(tau)]).log().mean())


def _check_pack(configs: Sequence[Config]) -> None:
    if not configs:
        raise ConfigError("A trainer needs at least one config.")
    first = configs[0].to_dict()
    for config in configs[1:]:
        for key, value in config.to_dict().items():
            if key not in LANE_KEYS and value != first[key]:
                raise ConfigError(
                    f"The value of `{key}` is {value!r} in one lane and {first[key]!r} in another, but must be the "
                    "same in all lanes of one pack; train them apart."
                )
