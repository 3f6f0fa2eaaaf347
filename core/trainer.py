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
from core.forces import State
from core.history import input_width
from core.lane import EpochRecord, Lane, Phase, make_optimizer
from core.leapfrog import Block, leapfrog, leapfrog_with_slope
from core.loss import Band, band_loss
from core.network import Forward, FullyConnectedNN
from core.orbits import forces_of
from core.samples import SampleBuffer, Samples, SampleShape
from core.timestep import Dynamical, Learned, proposed_step

#: Keys in which the lanes of one pack may differ.
LANE_KEYS = frozenset(
    "lr weight_decay energy_threshold E_lower E_upper bounds_relative dt_bound history_len feature_type seed epochs "
    "steps_per_epoch max_retrain_steps replay_steps replay_batch_size min_replay_size replay_capacity timid_fraction "
    "num_orbits stop_at_period e_min e_max a_min a_max eval_periods evaluate_every eps Nperiod".split()
)
#: Phase 2: updates between two verdicts, and the fewest before the first.
_VERDICT_EVERY = 10
#: Samples of one pass of a verdict.
_VERDICT_CHUNK = 4096
#: One in so many samples of a minibatch is a cold start.
_COLD_SHARE = 8

Layers = list[tuple[Tensor, Tensor]]


class TrainingFailed(RuntimeError):
    """A lane cannot go on; the message says why."""


class Selection(NamedTuple):
    """The lanes that take part in a batch: their numbers, an index into (L, ...) tensors, and their layers."""

    lanes: list[int]
    index: slice | Tensor
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
            start = State(*(tensor[index, : config.num_orbits].clone() for tensor in self.collection.state))
            self.lanes.append(Lane(config, generators[index], fitted[index], parameter, optimizer, start))
        self.shape = SampleShape(max(widths), first.num_particles, first.dim)
        self.buffer = SampleBuffer(
            [config.num_orbits * config.history_len * 8 for config in configs],
            [config.replay_capacity for config in configs],
            self.shape,
            self.network.flat,
        )
        column = {"device": device, "dtype": dtype}
        bands = [config.energy_band for config in configs]
        self._threshold = torch.tensor([[config.energy_threshold] for config in configs], **column)
        self._lower = torch.tensor([[lower] for lower, _ in bands], **column)
        self._upper = torch.tensor([[upper] for _, upper in bands], **column)
        self._dt_bound = torch.tensor([[config.dt_bound] for config in configs], **column)
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
            if lane.record.replay_updates >= lane.next_verdict and self._verdict(index):
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
        held, index = self.collection, chosen.index
        samples = _pick(held.samples(), index)
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
        tries = held.tries[chosen.index] + rejected
        held.tries[chosen.index] = tries
        stuck = rejected & (tries >= self._cap[chosen.index])
        held.ended[chosen.index] |= stuck
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
        state = State(*(tensor.clone() for tensor in held.state))
        kinetic, potential = torch.zeros_like(held.energy), torch.zeros_like(held.energy)
        pairs = zip(
            (all_accepted, all_dt, *state, kinetic, potential),
            (accepted, dt, *block.state, block.kinetic, block.potential),
            strict=True,
        )
        for target, value in pairs:
            target[chosen.index] = value
        return all_accepted, all_dt, Block(state, kinetic, potential)

    def _collection_is_over(self, lane: int) -> bool:
        held = self.collection
        waiting = held.exists[lane] & ~held.ended[lane] & (held.collected[lane] < self._quota[lane])
        return not bool(waiting.any())

    # Phase 2 ---------------------------------------------------------------------------------------

    def _begin_replay(self, index: int) -> None:
        lane, config = self.lanes[index], self.lanes[index].config
        lane.phase = Phase.REPLAY
        lane.order = lane.order[:0]
        main = self._main_share(index)
        one_pass = -(-self.buffer.count(index) // main)
        lane.next_verdict = min(config.replay_steps, max(_VERDICT_EVERY, one_pass))

    def _main_share(self, index: int) -> int:
        """Replay samples of a full minibatch: an eighth is left to cold starts where there are any."""
        size = self.lanes[index].config.replay_batch_size
        return max(1, size - size // _COLD_SHARE) if self.buffer.cold_count(index) else size

    def _minibatch(self, index: int) -> Tensor:
        """Rows of the buffer for the lane's next minibatch: the next of a random order, then cold starts."""
        lane = self.lanes[index]
        if not len(lane.order):
            lane.order = torch.randperm(self.buffer.count(index), generator=lane.generator)
        size = self._main_share(index)
        rows, lane.order = lane.order[:size] + self.buffer.offset, lane.order[size:]
        cold = self.buffer.cold_count(index)
        if cold:
            count = max(1, len(rows) // (_COLD_SHARE - 1))
            rows = torch.cat([rows, torch.randint(cold, (count,), generator=lane.generator)])
        return rows

    def _replay(self, chosen: Selection) -> None:
        """One minibatch update of each chosen lane, with the loss on both sides of the band."""
        minibatches = [self._minibatch(lane) for lane in chosen.lanes]
        counts = [len(rows) for rows in minibatches]
        index = torch.nn.utils.rnn.pad_sequence(minibatches, batch_first=True)
        present = torch.arange(index.shape[1]) < torch.tensor(counts)[:, None]
        # Rows beyond a lane's own minibatch repeat a real sample, and weigh nothing.
        index = torch.where(present, index, index[:, :1])
        device = self.buffer.data.device
        row = torch.tensor(chosen.lanes, device=device)[:, None]
        samples = self.shape.unpack(self.buffer.data[row, index.to(device)])
        forward = self.network.forward(self.network.pad(samples.inputs), chosen.layers)
        attempt = self._attempt(samples, forward, chosen)
        self._descend(chosen, samples, forward, attempt, present.to(device), [True] * len(counts))
        for lane in chosen.lanes:
            self.lanes[lane].record.replay_updates += 1

    def _verdict(self, index: int) -> bool:
        """Judge every sample of a lane without gradient. Return whether its phase 2 is over."""
        lane = self.lanes[index]
        rows = self.buffer.rows(index)
        chosen = self._select([index])
        below = timid = 0
        for chunk in rows.split(_VERDICT_CHUNK):
            samples = self.shape.unpack(chunk.unsqueeze(0))
            output = self.network(self.network.pad(samples.inputs), chosen.layers)[:, : len(chunk), 0]
            dt = proposed_step(output, samples.unit, self._dt_bound[chosen.index])
            block = leapfrog(samples.state, dt, self.forces, self.config.n_steps)
            error = (block.energy - samples.energy).abs() / samples.scale
            below += int((error < self._threshold[chosen.index]).sum())
            timid += int((error < self._lower[chosen.index]).sum())
        record = lane.record
        record.pass_fraction, record.timid_share = below / len(rows), timid / len(rows)
        record.converged = (
            below == len(rows) and record.timid_share <= lane.config.timid_fraction and not record.stuck_orbits
        )
        lane.next_verdict = min(record.replay_updates + _VERDICT_EVERY, lane.config.replay_steps)
        passed = below == len(rows) and record.timid_share <= lane.config.timid_fraction
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
        dt = proposed_step(output, samples.unit, self._dt_bound[chosen.index])
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
            masks = self._dropout_masks(chosen, included, forward.output.shape[1])
            forward = self.network.forward(self.network.pad(samples.inputs), chosen.layers, masks)
            attempt = self._attempt(samples, forward, chosen)
        band = Band(self._lower[chosen.index].log(), self._upper[chosen.index].log())
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

    def _dropout_masks(self, chosen: Selection, included: Tensor, rows: int) -> list[Tensor]:
        """Masks (L, rows, H) of each hidden layer from each lane's own generator, for its own rows, scaled by 1/keep."""
        keep = 1 - self.config.dropout
        masks = [
            torch.zeros(len(chosen.lanes), rows, width, dtype=self.network.flat.dtype)
            for width in self.network.dims[1:-1]
        ]
        own = self._own_rows(chosen, included)
        for row, lane in enumerate(chosen.lanes):
            for mask in masks:
                uniform = torch.rand(own[row], mask.shape[2], generator=self.lanes[lane].generator)
                mask[row, : own[row]] = (uniform < keep).to(mask.dtype) / keep
        return [mask.to(self.network.flat.device) for mask in masks]

    def _own_rows(self, chosen: Selection, included: Tensor) -> list[int]:
        """Count a lane's own rows: up to its last included one, whatever its neighbours need."""
        places = torch.arange(1, included.shape[1] + 1, device=included.device)
        return [int(count) for count in (included * places).amax(-1).tolist()]

    def _finish(self, index: int) -> EpochRecord:
        record = self.lanes[index].finish_epoch(self.buffer.count(index))
        self.collection.begin_epoch(self.lanes[index], index)
        return record

    def _first_output(self, lane: int) -> float:
        """Return the logarithm of the first proposal: the dynamical criterion's step on the lane's initial orbits."""
        held = self.collection
        count = held.configs[lane].num_orbits
        state = State(*(tensor[lane, :count] for tensor in held.state))
        criterion = Dynamical(held.configs[lane].eps)
        tau = criterion.propose(state, criterion.init(state))
        return float((tau / held.unit[lane, :count]).log().mean())


def _pick(samples: Samples, index: slice | Tensor) -> Samples:
    if isinstance(index, slice) and index == slice(None):
        return samples
    inputs, state, *scalars = samples
    return Samples(inputs[index], State(*(tensor[index] for tensor in state)), *(value[index] for value in scalars))


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
