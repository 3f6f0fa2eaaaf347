"""Samples: states at which a step is proposed, with all that its verdict needs; and the buffer that keeps them.

A sample holds the network's input (the state's own window included, as feature rows, detached), the
state, its energy and energy scale, its unit of time, and what the step rule made of the proposal.
Packed into one row of numbers, a minibatch of many lanes is one gather.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from core.config import Config
from core.forces import State, by_component


class Samples(NamedTuple):
    """A batch of samples: inputs (L, B, F), states (L, B, N, D), energy, scale, unit and stretch (L, B).

    ``stretch`` is dt / tau, the share of the proposal that the step rule took when the sample was made: a later
    proposal is stretched as much. (The previous dt itself would be that of an older network: a change of
    all steps by 10 % would then be answered by one of 20 %, and old samples would not pass.)
    """

    inputs: Tensor
    state: State
    energy: Tensor
    scale: Tensor
    unit: Tensor
    stretch: Tensor

    def pick(self, index: slice | Tensor) -> "Samples":
        """Pick lanes."""
        state = self.state.map(lambda tensor: tensor[index])
        return Samples(self.inputs[index], state, *(tensor[index] for tensor in self[2:]))

    def pack(self) -> Tensor:
        """One row of numbers per sample, (L, B, W)."""
        vectors = [tensor.flatten(-2) for tensor in self.state[:3]]
        scalars = torch.stack(self[2:], -1)
        return torch.cat([self.inputs, *vectors, self.state.mass, scalars], -1)


#: Numbers of a sample that are neither inputs nor of its state.
_SCALARS = len(Samples._fields) - 2


class SampleShape(NamedTuple):
    """Sizes that a packed row is made of: input width F, bodies N, dimensions D."""

    inputs: int
    bodies: int
    dim: int

    @property
    def width(self) -> int:
        """Length W of a packed row."""
        return self.inputs + self.state_width

    @property
    def state_width(self) -> int:
        """Length of a packed row without its inputs."""
        return 3 * self.bodies * self.dim + self.bodies + _SCALARS

    def unpack(self, packed: Tensor) -> Samples:
        """Split packed rows (L, B, W) into samples (views)."""
        return self._split(packed[..., : self.inputs], packed[..., self.inputs :])

    def read(self, packed: Tensor) -> Samples:
        """Split packed rows (L, B, W) into samples whose numbers are copies, in the order that arithmetic likes."""
        return self._split(packed[..., : self.inputs], by_component(packed[..., self.inputs :], packed.dim() - 1))

    def _split(self, inputs: Tensor, rest: Tensor) -> Samples:
        vector = self.bodies * self.dim
        parts = torch.split(rest, [vector, vector, vector, self.bodies, _SCALARS], -1)
        shape = (*rest.shape[:-1], self.bodies, self.dim)
        position, velocity, acceleration = (part.view(shape) for part in parts[:3])
        return Samples(inputs, State(position, velocity, acceleration, parts[3]), *parts[4].unbind(-1))


def cold_capacity(config: Config) -> int:
    """Return how many cold starts a lane keeps: the newest eight of each place in each orbit's warm-up."""
    return 0 if config.history_warmup == "analytic" else config.num_orbits * config.history_len * 8


class SampleBuffer:
    """Per lane, two ring buffers in one tensor (L, cold + capacity, W): cold starts first, then the replay samples.

    The replay part grows as it fills, up to each lane's capacity; then the oldest samples go first.
    """

    def __init__(self, cold_capacity: list[int], capacity: list[int], shape: SampleShape, like: Tensor):
        self.cold_capacity, self.capacity, self.shape = cold_capacity, capacity, shape
        self.offset = max(cold_capacity)
        self.cold_written = [0] * len(capacity)
        self.written = [0] * len(capacity)
        self.data = like.new_zeros(len(capacity), self.offset + min(256, max(capacity)), shape.width)

    def count(self, lane: int) -> int:
        """Replay samples that the lane holds."""
        return min(self.written[lane], self.capacity[lane])

    def cold_count(self, lane: int) -> int:
        """Cold-start samples that the lane holds."""
        return min(self.cold_written[lane], self.cold_capacity[lane])

    def push(
        self, lanes: list[int], rows: Tensor, taken: Sequence[Sequence[bool]], cold: Sequence[Sequence[bool]]
    ) -> None:
        """Append the ``taken`` (n, B) samples ``rows`` (n, B, W) of ``lanes``; the ``cold`` ones are cold starts."""
        self.make_room(max(self.written[lane] + sum(own) for lane, own in zip(lanes, taken, strict=True)))
        batch, length = rows.shape[1], self.data.shape[1]
        places: dict[int, int] = {}  # of the buffer, and which row goes there: of two the later one
        for number, lane in enumerate(lanes):
            first = lane * length
            for orbit, is_taken in enumerate(taken[number]):
                if not is_taken:
                    continue
                if not cold[number][orbit]:
                    place = first + self.offset + self.written[lane] % self.capacity[lane]
                    self.written[lane] += 1
                elif self.cold_capacity[lane]:
                    place = first + self.cold_written[lane] % self.cold_capacity[lane]
                    self.cold_written[lane] += 1
                else:
                    continue
                places[place] = number * batch + orbit
        if places:
            to, of = torch.tensor([list(places), list(places.values())], device=rows.device)
            self.data.flatten(0, 1).index_copy_(0, to, rows.flatten(0, 1).index_select(0, of))

    def make_room(self, samples: int) -> None:
        """Let lanes hold ``samples`` replay samples, or their capacities."""
        needed = self.offset + min(samples, max(self.capacity))
        if needed > self.data.shape[1]:
            size = min(2 * needed, self.offset + max(self.capacity))
            grown = self.data.new_zeros(self.data.shape[0], size, self.data.shape[2])
            grown[:, : self.data.shape[1]] = self.data
            self.data = grown

    def rows(self, lane: int) -> Tensor:
        """All samples of a lane, cold ones first, (n, W)."""
        main = self.data[lane, self.offset : self.offset + self.count(lane)]
        cold = self.cold_count(lane)
        return torch.cat([self.data[lane, :cold], main]) if cold else main

    def gather(self, lanes: list[int], places: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the samples at each lane's ``places`` as (L, B, W), and which of them are its own (L, B).

        Replay samples are counted from 0, cold ones from -1 down.
        Rows beyond a lane's own repeat its first one.
        """
        sizes = [len(own) for own in places]
        count = max(sizes)
        if min(sizes) == count:
            index, present = torch.stack(places), torch.ones(len(lanes), count, dtype=torch.bool)
        else:
            index = torch.nn.utils.rnn.pad_sequence(places, batch_first=True)
            present = torch.arange(count) < torch.tensor(sizes)[:, None]
            index = torch.where(present, index, index[:, :1])
        first = torch.tensor(lanes)[:, None] * self.data.shape[1]
        index = (torch.where(index < 0, -1 - index, index + self.offset) + first).flatten().to(self.data.device)
        rows = self.data.flatten(0, 1).index_select(0, index)
        return rows.view(len(lanes), count, -1), present.to(self.data.device)

    def lane_state(self, lane: int, input_width: int) -> dict[str, Any]:
        """Return a lane's samples at its own input width, and how many were ever written."""
        main = self.data[lane, self.offset : self.offset + self.count(lane)]
        cold = self.data[lane, : self.cold_count(lane)]
        unused = self.shape.inputs - input_width
        return {
            "samples": torch.cat([main[:, :input_width], main[:, input_width + unused :]], 1),
            "cold": torch.cat([cold[:, :input_width], cold[:, input_width + unused :]], 1),
            "written": self.written[lane],
            "cold_written": self.cold_written[lane],
        }

    def restore_lane(self, lane: int, content: dict[str, Any]) -> None:
        """Put back what :meth:`lane_state` returned."""
        self.make_room(len(content["samples"]))
        for name, first in (("samples", self.offset), ("cold", 0)):
            rows = content[name]
            width = rows.shape[1] - self.shape.state_width
            target = self.data[lane, first : first + len(rows)]
            target[:, :width], target[:, self.shape.inputs :] = rows[:, :width], rows[:, width:]
        # Ring buffers go on at the place where they were.
        self.written[lane], self.cold_written[lane] = content["written"], content["cold_written"]
