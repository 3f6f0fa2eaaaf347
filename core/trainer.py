"""Two-phase training of L lanes in lockstep (DESIGN.md section 6).

Phase 1 (collect): every orbit proposes a step and is accepted alone if its rel_dE is below
energy_threshold; a rejected one stays, and its lane takes a gradient step on the rejected ones.
Phase 2 (replay): minibatches of accepted states, until a verdict over all of them passes.

One tick is one forward pass, at most one backward pass and one optimizer step for each lane of one phase
(core/turns.py). A lane does not depend on its neighbours: its products are batched, its random numbers are its own.
"""

import math
import secrets
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from core.collection import Collection
from core.config import Config
from core.features import InputScales
from core.forces import State
from core.history import input_width
from core.lane import EpochRecord, Lane, Phase
from core.network import Forward
from core.objective import Attempt, Objective, angular_momentum_error, in_order
from core.optimizer import Optimizer, minimise
from core.orbits import Orbits, forces_of
from core.pack import check_pack
from core.replay import VERDICT_EVERY, draw_minibatch, is_stalled, is_verdict_due, plan_replay
from core.samples import SampleBuffer, Samples, SampleShape, cold_capacity
from core.timestep import Learned, network_of
from core.turns import Turns
from core.verdict import judge

Layers = list[tuple[Tensor, Tensor]]


class TrainingFailed(RuntimeError):
    """A lane cannot go on; the message says why."""


class Selection(NamedTuple):
    """The lanes that take part in a batch: their numbers, where they stand in (L, ...) tensors, and their layers."""

    lanes: list[int]
    where: slice | Tensor
    layers: Layers


class Step(NamedTuple):
    """Steps of one lane's orbits that were accepted, for whoever watches a training; all (B, ...)."""

    accepted: Tensor
    warm: Tensor
    dt: Tensor
    state: State
    energy: Tensor


class Trainer:
    """Trains the lanes that ``configs`` describe.

    ``systems`` (num_orbits of them) take the place of drawn initial conditions, at the start and
    whenever an orbit starts afresh. Raises ConfigError if the configs do not fit into one pack, or the systems to them.
    """

    #: Called after an update of phase 2 with the lane, the epoch's count of updates, and the loss.
    on_replay: Callable[[int, int, float], None] | None = None
    #: Called after steps were accepted with the lane and what its orbits did.
    on_step: Callable[[int, Step], None] | None = None

    def __init__(self, configs: Sequence[Config], systems: Orbits | None = None):
        configs = [
            config if config.seed is not None else config.model_copy(update={"seed": secrets.randbits(32)})
            for config in configs
        ]
        self._allocate(configs, [systems] * len(configs))
        generators = [torch.Generator().manual_seed(int(config.seed or 0)) for config in configs]
        for index, (config, generator) in enumerate(zip(configs, generators, strict=True)):
            self.collection.start(index, range(config.num_orbits), generator)
        self.collection.fill_unused()
        fitted = [
            self.collection.fit_scales(index) if config.normalize_inputs else InputScales()
            for index, config in enumerate(configs)
        ]
        self.collection.open(fitted)
        for index, config in enumerate(configs):
            self.network.initialize(index, generators[index], self.collection.first_output(index), config.fourier_scale)
            start = self.collection.own_state(index).map(torch.clone)
            self.lanes.append(Lane(config, generators[index], fitted[index], start))
            self.note_energy(index)

    @classmethod
    @torch.no_grad()
    def joined(cls, parts: Sequence[tuple["Trainer", int]]) -> "Trainer":
        """Return a trainer of lanes of others, each as it stands; it goes on bit for bit.

        The lanes are moved: the others must not be used any more. Raises ConfigError if they do not fit into one pack.
        """
        trainer = cls.__new__(cls)
        configs = [source.lanes[index].config for source, index in parts]
        trainer._allocate(configs, [source.collection.systems[index] for source, index in parts])
        trainer.collection.open([source.lanes[index].scales for source, index in parts])
        trainer.buffer.make_room(max(source.buffer.count(index) for source, index in parts))
        for row, (source, index) in enumerate(parts):
            trainer._adopt(row, source, index)
        trainer.collection.fill_unused()
        return trainer

    def _allocate(self, configs: list[Config], systems: list[Orbits | None]) -> None:
        """Make everything that has a place for each lane, without content."""
        check_pack(configs)
        first = self.config = configs[0]
        device = first.torch_device
        self.forces = forces_of(first)
        if first.tf32:
            torch.set_float32_matmul_precision("high")
        self.network = network_of(*configs)
        self.optimizer = Optimizer(configs, self.network.flat)
        self.collection = Collection(configs, self.forces, systems)
        self.lanes: list[Lane] = []
        self._turns = Turns()
        self.shape = SampleShape(max(map(input_width, configs)), first.num_particles, first.dim)
        self.buffer = SampleBuffer(
            [cold_capacity(config) for config in configs],
            [config.replay_capacity for config in configs],
            self.shape,
            self.collection.energy,
        )
        self.objective = Objective(configs, self.forces)
        self._quota = torch.tensor([[config.steps_per_epoch] for config in configs], device=device)
        self._cap = torch.tensor([[config.max_retrain_steps or 2**62] for config in configs], device=device)
        self._analytic = first.history_warmup == "analytic" and any(config.history_len for config in configs)
        self._reversible = any(config.step_rule == "reversible" for config in configs)
        self._one_period = torch.tensor([[config.stop_at_period] for config in configs], device=device)

    def _adopt(self, row: int, source: "Trainer", index: int) -> None:
        """Take a lane over from another trainer, in the middle of its epoch or between two."""
        lane, network = source.lanes[index], self.network
        rows = zip(
            (network.flat, *self.optimizer.moments.values()),
            (source.network.flat, *source.optimizer.moments.values()),
            strict=True,
        )
        for target, value in rows:
            own = network.named(target[row], row)
            for name, tensor in source.network.named(value[index], index).items():
                own[name].copy_(tensor)
        self.optimizer.steps[row].copy_(source.optimizer.steps[index])
        network.own_frequencies(row).copy_(source.network.own_frequencies(index))
        self.lanes.append(lane)
        self.collection.adopt(row, source.collection, index)
        width = input_width(lane.config)
        self.buffer.restore_lane(row, source.buffer.lane_state(index, width))

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
        """Advance the lanes whose turn it is by one tick; return the records of epochs that ended, by lane."""
        collecting, replaying = self._turns.next(self.lanes)
        if collecting:
            self._collect(self._select(collecting))
        finished = {}
        due = [index for index in replaying if is_verdict_due(self.lanes[index])]
        for index, is_over in zip(due, self.judge(due) if due else [], strict=True):
            if is_over:
                finished[index] = self._finish(index)
        updating = [index for index in replaying if index not in finished]
        if updating:
            self._replay(self._select(updating))
        waiting = self.collection.waiting(self._quota).any(-1).tolist() if collecting else []
        for index in collecting:
            if not waiting[index]:
                if self.buffer.count(index) < self.lanes[index].config.min_replay_size:
                    finished[index] = self._finish(index)
                else:
                    self._begin_replay(index)
        return finished

    def criterion(self, lane: int = 0) -> Learned:
        """Return the lane's network as a step criterion, on a copy of its weights."""
        held = self.lanes[lane]
        network = network_of(held.config)
        own = network.named(network.flat[0], 0)
        for name, tensor in self.network.named(self.network.flat[lane], lane).items():
            own[name].copy_(tensor)
        network.own_frequencies(0).copy_(self.network.own_frequencies(lane))
        return Learned(held.config, held.scales, network)

    def rescale(self, lane: int, scales: InputScales) -> None:
        """Give a lane the input scales that it was trained with."""
        self.lanes[lane].scales = scales
        self.collection.open([held.scales for held in self.lanes])

    # Phase 1 ---------------------------------------------------------------------------------------

    def _collect(self, chosen: Selection) -> None:
        held, index = self.collection, chosen.where
        picked = held.pick(index)
        samples = picked.samples
        active = held.waiting(self._quota)[index]
        forward = self.network.forward(self._embed(samples, chosen), chosen.layers)
        instead = held.warm_up_steps(picked) if self._analytic else None
        previous = picked.previous if self._reversible else None
        attempt = self.objective.attempt(samples, forward.output, index, instead, previous)
        accepted = active & (attempt.rel_dE < self.objective.threshold[index])  # a NaN is not accepted
        if instead is not None:
            accepted |= active & ~instead.isnan() & attempt.rel_dE.isfinite()
        rejected = active & ~accepted
        warm = held.is_warm_up()[index]
        taken, cold, refused = torch.stack([accepted, accepted & warm, rejected]).tolist()
        counts = [sum(own) for own in taken], [sum(own) for own in refused]
        for lane, count, missed in zip(chosen.lanes, *counts, strict=True):
            self.lanes[lane].record.accepted += count
            self.lanes[lane].record.rejected += missed
        if any(counts[1]):
            self._retrain(chosen, samples, forward, attempt, rejected, counts[1])
        if any(counts[0]):
            self._record(chosen, samples, attempt, accepted, taken, cold)
            elapsed = attempt.dt * self.config.n_steps
            held.move(picked, accepted, attempt.block, elapsed, attempt.stretch)
            if self.on_step is not None:
                self._show(chosen, accepted, warm, elapsed)
            held.ended |= self._one_period & held.exists & (held.elapsed >= held.period)
        if self._reversible:
            for lane, missed in zip(chosen.lanes, counts[1], strict=True):
                if missed:
                    held.forget_previous(lane)

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
        self._descend(chosen, samples, rejected, refused, forward, attempt)
        tries = held.tries[chosen.where] + rejected
        held.tries[chosen.where] = tries
        stuck = rejected & (tries >= self._cap[chosen.where])
        held.ended[chosen.where] |= stuck
        for lane, count, has_any in zip(chosen.lanes, stuck.sum(-1).tolist(), refused, strict=True):
            self.lanes[lane].record.stuck_orbits += count
            self.lanes[lane].record.retrain_steps += has_any

    def _record(
        self,
        chosen: Selection,
        samples: Samples,
        attempt: Attempt,
        accepted: Tensor,
        taken: list[list[bool]],
        cold: list[list[bool]],
    ) -> None:
        """Store the accepted states, warm-up ones as cold starts, and add them up."""
        error = angular_momentum_error(samples.state, attempt)
        sums = torch.stack([attempt.rel_dE, error.change / error.scale, attempt.dt])
        totals = in_order(torch.where(accepted, sums, 0)).T.tolist()
        for lane, own, (error_sum, momentum_sum, dt_sum) in zip(chosen.lanes, taken, totals, strict=True):
            self.lanes[lane].count_accepted(error_sum, momentum_sum, dt_sum, sum(own))
        packed = samples._replace(stretch=attempt.stretch).pack()
        self.buffer.push(chosen.lanes, packed, taken, cold)

    def _show(self, chosen: Selection, accepted: Tensor, warm: Tensor, elapsed: Tensor) -> None:
        held = self.collection
        assert self.on_step is not None
        for row, lane in enumerate(chosen.lanes):
            own = held.own_state(lane).map(torch.clone)
            count = len(own.mass)
            step = (accepted[row, :count], warm[row, :count], elapsed[row, :count])
            self.on_step(lane, Step(*step, own, held.energy[lane, :count].clone()))

    # Phase 2 ---------------------------------------------------------------------------------------

    def _begin_replay(self, index: int) -> None:
        self.lanes[index].phase = Phase.REPLAY
        plan_replay(self.lanes[index], self.buffer, index)

    def _replay(self, chosen: Selection) -> None:
        """One minibatch update of each chosen lane, with the loss on both sides of the band."""
        drawn = [draw_minibatch(self.lanes[lane], self.buffer, lane) for lane in chosen.lanes]
        packed, present = self.buffer.gather(chosen.lanes, drawn)
        samples = self.shape.read(packed)
        self._descend(chosen, samples, present, [True] * len(drawn))
        for index in chosen.lanes:
            lane = self.lanes[index]
            lane.record.replay_updates += 1
            if lane.record.loss is not None:
                lane.replay_losses.append(lane.record.loss)
                lane.record.stalled = is_stalled(lane)
                if self.on_replay is not None:
                    self.on_replay(index, lane.record.replay_updates, lane.record.loss)

    def judge(self, lanes: list[int]) -> list[bool]:
        """Judge the samples of some lanes without gradient. Return whether their phase 2 is over."""
        rows = [self.buffer.rows(index) for index in lanes]
        over = []
        for index, verdict in zip(lanes, judge(rows, lanes, self.shape, self.network, self.objective), strict=True):
            lane = self.lanes[index]
            record, judged = lane.record, verdict.judged
            record.pass_fraction, record.timid_share = verdict.below / judged, verdict.timid / judged
            record.replay_rel_dE = verdict.rel_dE
            passed = verdict.below == judged and record.timid_share <= lane.config.timid_fraction
            record.converged = passed and not record.stuck_orbits
            lane.next_verdict = min(record.replay_updates + VERDICT_EVERY, lane.config.replay_steps)
            over.append(passed or record.stalled or record.replay_updates >= lane.config.replay_steps)
        return over

    # Both ------------------------------------------------------------------------------------------

    def _select(self, lanes: list[int]) -> Selection:
        if len(lanes) == len(self.lanes):
            return Selection(lanes, slice(None), self.network.layers)
        if len(lanes) == 1:
            index: slice | Tensor = slice(lanes[0], lanes[0] + 1)
        else:
            index = torch.tensor(lanes, device=self.network.flat.device)
        flat = self.network.flat[index] if isinstance(index, slice) else self.network.flat.index_select(0, index)
        return Selection(lanes, index, self.network.views(flat))

    def _embed(self, samples: Samples, chosen: Selection) -> Tensor:
        return self.network.embed(samples.inputs, chosen.where)

    def _descend(
        self,
        chosen: Selection,
        samples: Samples,
        included: Tensor,
        updating: list[bool],
        forward: Forward | None = None,
        attempt: Attempt | None = None,
    ) -> None:
        """One optimizer step on the mean band loss of each lane's ``included`` (L, B) samples.

        A forward pass and an attempt that were made already are used again, but for dropout: there
        the pass whose gradient is taken is one of its own, with masks, and no verdict ever sees it.
        """
        masks: list[Tensor] = []
        if self.config.dropout:
            generators = [self.lanes[lane].generator for lane in chosen.lanes]
            masks = self.network.dropout_masks(self.config.dropout, included, generators)
        weight = included / included.sum(-1, keepdim=True).clamp_min(1)
        flat = self.optimizer.gradient[: len(chosen.lanes)]

        def differentiate(forward: Forward, attempt: Attempt) -> tuple[Tensor, Tensor]:
            """Put the gradient into ``flat``; return loss (L,) and its slopes (L, B)."""
            loss = self.objective.loss(samples, attempt, chosen.where)
            slope = torch.where(included, loss.slope * weight, 0)
            gradient = torch.zeros_like(forward.output)
            gradient[:, : slope.shape[1], 0] = slope
            self.network.backward(forward, gradient, self.network.views(flat), chosen.layers)
            return in_order(torch.where(included, loss.value * weight, 0)), slope

        def run() -> tuple[Forward, Attempt]:
            forward = self.network.forward(self._embed(samples, chosen), chosen.layers, masks)
            return forward, self.objective.attempt(samples, forward.output, chosen.where)

        if self.config.optimizer == "lbfgs":
            loss = minimise(self.network.flat[0], self.config, lambda: (differentiate(*run())[0][0], flat[0].clone()))
            self.lanes[0].count_update(loss)
            return
        if masks or forward is None or attempt is None:
            forward, attempt = run()
        value, slope = differentiate(forward, attempt)
        losses, checks = torch.stack([value, slope.sum(-1) + value]).tolist()
        rows = [row for row, check in enumerate(checks) if updating[row] and abs(check) < math.inf]
        if rows:
            self.optimizer.step([chosen.lanes[row] for row in rows], rows)
        for row, lane in enumerate(chosen.lanes):
            if updating[row]:
                self.lanes[lane].count_update(losses[row] + 0 * checks[row])

    def _finish(self, index: int) -> EpochRecord:
        record = self.lanes[index].finish_epoch(self.buffer.count(index))
        self.collection.begin_epoch(self.lanes[index], index)
        self.note_energy(index)
        return record

    def note_energy(self, index: int) -> None:
        """Put the mean energy that the lane's orbits start the epoch with into its record."""
        count = self.lanes[index].config.num_orbits
        self.lanes[index].record.E0 = float(self.collection.energy[index, :count].mean())
