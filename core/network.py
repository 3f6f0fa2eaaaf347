"""The network, stacked over lanes: L fully connected networks of one shape as batched matrix products.

All parameters of a lane are one row of a flat matrix (L, P), so that an optimizer updates a lane in
one pass; the layers are views of it, weights (L, in, out) and biases (L, 1, out). The backward
pass is written out (it is six lines) and puts gradients into a matrix of the same form.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Generator, Tensor

#: Lanes' rows and layers start at multiples of this many numbers, so that an elementwise kernel
#: treats a weight in the same way wherever its lane stands and however wide the others are.
_ALIGNMENT = 16
#: Batches have a multiple of so many rows, and first layers of inputs: with other sizes a matrix
#: product rounds differently as neighbours come and go (docs/decisions.md).
_BLOCK = 8
#: A layer's values of one lane are a multiple of so many: an elementwise kernel works in blocks (of at most these many
#: float32 numbers, 64 bytes twice) and rounds what is left over at the end of a tensor in another way.
_VALUES = 32
#: Below so many multiplications a lane, torch takes another routine for a product, which rounds differently.
_SMALLEST_PRODUCT = 400
#: Over more rows than these a product of float32 is summed in parts whose size depends on how many rows there are.
_MOST_ROWS = 128
#: The network's two outputs; the first is the step.
OUTPUTS = 2
_ALL = slice(None)


class Forward(NamedTuple):
    """What a forward pass leaves for the backward pass.

    ``inputs`` of each layer, the ``activated`` values of the hidden ones (silu: the values before it), their dropout
    masks if there are any, and the output.
    """

    inputs: list[Tensor]
    activated: list[Tensor]
    masks: Sequence[Tensor]
    output: Tensor


def _activate(name: str, bias: Tensor, value: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``bias + value @ weight`` (with tanh, its sigmoid of twice that) and the activation of it."""
    if name == "tanh":
        # 2 / (1 + exp(-2x)) - 1: torch's sigmoid is six times as fast as its tanh.
        before = torch.baddbmm(bias, value, weight, beta=2, alpha=2).sigmoid_()
        return before, torch.rsub(before, -1, alpha=-2)
    before = torch.baddbmm(bias, value, weight)
    return before, before.relu() if name == "relu" else before * before.sigmoid()


def _activate_backward(name: str, gradient: Tensor, activated: Tensor) -> Tensor:
    """Multiply ``gradient`` by the activation's slope, in one pass."""
    if name == "tanh":
        result: Tensor = torch.ops.aten.tanh_backward(gradient, activated)
    elif name == "relu":
        result = torch.ops.aten.threshold_backward(gradient, activated, 0)
    else:
        result = torch.ops.aten.silu_backward(gradient, activated)
    return result


class FullyConnectedNN:
    """L networks ``dims[0] -> ... -> dims[-1]``; a lane may use fewer inputs than dims[0], the rest are zeros."""

    def __init__(
        self,
        input_widths: Sequence[int],
        hidden_dims: Sequence[int],
        activation: str,
        dtype: torch.dtype,
        device: torch.device,
        fourier_dim: int = 0,
    ):
        lanes, widest = len(input_widths), _multiple(max(input_widths), _BLOCK)
        #: Random Fourier frequencies (L, F, fourier_dim); the first layer then sees sines and cosines.
        self.frequencies = torch.zeros(lanes, widest, fourier_dim, dtype=dtype, device=device)
        self._own_widths = list(input_widths)
        self.input_widths = [2 * fourier_dim] * lanes if fourier_dim else self._own_widths
        self.dims = [_multiple(max(self.input_widths), _BLOCK), *hidden_dims, OUTPUTS]
        self.activation = activation
        self.spans: list[tuple[int, int, int, int]] = []  # (offset of weight, of bias, in, out)
        offset = 0
        for fan_in, fan_out in zip(self.dims[:-1], self.dims[1:], strict=True):
            bias = offset + _multiple(fan_in * fan_out, _ALIGNMENT)
            self.spans.append((offset, bias, fan_in, fan_out))
            offset = bias + _multiple(fan_out, _ALIGNMENT)
        narrowest = min(fan_in * fan_out for _, _, fan_in, fan_out in self.spans)
        #: Rows come in multiples of this.
        self._rows = max(_BLOCK, *(_VALUES // math.gcd(_VALUES, width) for width in self.dims[1:-1]))
        self._fewest_rows = _multiple(-(-_SMALLEST_PRODUCT // narrowest), self._rows)
        self.flat = torch.zeros(lanes, offset, dtype=dtype, device=device)
        self.layers = self.views(self.flat)

    def views(self, flat: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return (weight, bias) views of each layer into a flat matrix (lanes, P)."""
        lanes, row, begin, layers = flat.shape[0], flat.stride(0), flat.storage_offset(), []
        for weight, bias, fan_in, fan_out in self.spans:
            # Products with two columns are slow, with two rows fast: the last layer is stored as (L, out, in).
            steps = (1, fan_in) if weight == self.spans[-1][0] else (fan_out, 1)
            own = flat.as_strided((lanes, fan_in, fan_out), (row, *steps), begin + weight)
            layers.append((own, flat.as_strided((lanes, 1, fan_out), (row, fan_out, 1), begin + bias)))
        return layers

    def initialize(self, lane: int, generator: Generator, output_bias: float, fourier_scale: float = 1.0) -> None:
        """Draw a lane's weights as torch.nn.Linear does, at the lane's own width and fan-in.

        The output layer is drawn ten times smaller around ``output_bias``, the logarithm of the
        first proposal: an untrained network proposes about one and the same step. Fourier frequencies,
        if there are any, are normal with the width ``fourier_scale`` (Tancik et al. 2020).
        """
        own = self.own_frequencies(lane)
        if own.numel():
            normal = torch.randn(own.shape, dtype=torch.float64, generator=generator)
            own.copy_(fourier_scale * normal)
        for index, (weight, bias) in enumerate(self.layers):
            fan_in = self.input_widths[lane] if index == 0 else weight.shape[1]
            bound = 1 / math.sqrt(max(fan_in, 1))
            if index == len(self.layers) - 1:
                bound /= 10
            for target in (weight[lane, :fan_in], bias[lane]):
                uniform = torch.rand(target.shape, dtype=torch.float64, generator=generator)
                target.copy_(bound * (2 * uniform - 1))
        self.layers[-1][1][lane] += output_bias

    def padded_rows(self, batch: int) -> int:
        """Rows that a batch is filled up to: a multiple of 8 (or more), and enough for products of the usual kind."""
        return max(_multiple(batch, self._rows), self._fewest_rows)

    def own_frequencies(self, lane: int) -> Tensor:
        """Return a lane's Fourier frequencies (F, fourier_dim) at its own width (a view)."""
        return self.frequencies[lane, : self._own_widths[lane]]

    def embed(self, inputs: Tensor, where: slice | Tensor = _ALL) -> Tensor:
        """Turn inputs (L, B, F) of the lanes ``where``, of any precision, into what the first layer sees.

        Zeros fill them up to its width and to :meth:`padded_rows`. With Fourier features each
        frequency b gives sin(2 pi x.b) and cos(2 pi x.b).
        """
        rows, width = inputs.shape[1:]
        wide = self.frequencies.shape[1]
        filling = (0, wide - width, 0, self.padded_rows(rows) - rows)
        padded = torch.nn.functional.pad(inputs.to(self.flat.dtype), filling)
        if not self.frequencies.shape[2]:
            return padded
        phase = 2 * math.pi * torch.bmm(padded, self.frequencies[where])
        waves = torch.cat([phase.sin(), phase.cos()], -1)
        return torch.nn.functional.pad(waves, (0, self.dims[0] - waves.shape[2]))

    def __call__(self, inputs: Tensor, layers: list[tuple[Tensor, Tensor]] | None = None) -> Tensor:
        """Map inputs (L, B, F) to outputs (L, B, 2), without dropout and without keeping anything."""
        value = inputs
        layers = self.layers if layers is None else layers
        for weight, bias in layers[:-1]:
            _, value = _activate(self.activation, bias, value, weight)
        return torch.baddbmm(layers[-1][1], value, layers[-1][0])

    def forward(
        self, inputs: Tensor, layers: list[tuple[Tensor, Tensor]] | None = None, masks: Sequence[Tensor] = ()
    ) -> Forward:
        """Forward pass for a gradient. ``masks`` are dropout masks of the hidden layers, already scaled."""
        layers = self.layers if layers is None else layers
        kept, activated, value = [], [], inputs
        for index, (weight, bias) in enumerate(layers[:-1]):
            kept.append(value)
            before, value = _activate(self.activation, bias, value, weight)
            activated.append(before if self.activation == "silu" else value)
            if masks:
                value = value * masks[index]
        kept.append(value)
        return Forward(kept, activated, masks, torch.baddbmm(layers[-1][1], value, layers[-1][0]))

    def dropout_masks(self, dropout: float, included: Tensor, generators: Sequence[Generator]) -> list[Tensor]:
        """Masks (L, rows, H) of each hidden layer, scaled by 1 / (1 - dropout), for the ``included`` (L, B) rows.

        Each lane draws from its own generator, and only up to its last included row.
        """
        keep = 1 - dropout
        lanes, batch = included.shape
        rows = self.padded_rows(batch)
        own = (included * torch.arange(1, batch + 1, device=included.device)).amax(-1).tolist()
        masks = [torch.zeros(lanes, rows, width, dtype=self.flat.dtype) for width in self.dims[1:-1]]
        for lane, (count, generator) in enumerate(zip(own, generators, strict=True)):
            for mask in masks:
                uniform = torch.rand(int(count), mask.shape[2], generator=generator)
                mask[lane, : int(count)] = (uniform < keep) / keep
        return [mask.to(self.flat.device) for mask in masks]

    def backward(
        self,
        forward: Forward,
        gradient: Tensor,
        into: list[tuple[Tensor, Tensor]],
        layers: list[tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        """Write d loss / d parameters into ``into``, given d loss / d output (L, B, 2)."""
        layers = self.layers if layers is None else layers
        for index in range(len(layers) - 1, -1, -1):
            weight, bias = into[index]
            if index == len(layers) - 1:
                _product(gradient, forward.inputs[index], weight.mT)
            else:
                _product(forward.inputs[index], gradient, weight)
            torch.sum(gradient, 1, keepdim=True, out=bias)
            if index:
                gradient = torch.bmm(gradient, layers[index][0].transpose(1, 2))
                if forward.masks:
                    gradient = gradient * forward.masks[index - 1]
                gradient = _activate_backward(self.activation, gradient, forward.activated[index - 1])

    def named(self, row: Tensor, lane: int) -> dict[str, Tensor]:
        """Return a flat row (P,) of ``lane`` as named views at the lane's own width.

        Names and shapes are those of a plain ``torch.nn.Sequential`` of Linear layers ("0.weight" is (out, in)).
        """
        tensors = {}
        for index, (weight, bias) in enumerate(self.views(row.unsqueeze(0))):
            own = weight[0, : self.input_widths[lane]] if index == 0 else weight[0]
            tensors[f"{2 * index}.weight"] = own.T
            tensors[f"{2 * index}.bias"] = bias[0, 0]
        return tensors


def _product(left: Tensor, right: Tensor, into: Tensor) -> None:
    """Write left^T @ right into the view of a flat matrix.

    Into a view with gaps torch multiplies lane by lane. It is left to do so where lanes would otherwise stand
    unaligned, which changes the rounding.
    """
    whole = into.is_contiguous() or into[0].numel() % _ALIGNMENT
    target = into if whole else torch.empty(into.shape, dtype=into.dtype, device=into.device)
    size = _MOST_ROWS if left.dtype == torch.float32 else left.shape[1]
    (first, second), *others = zip(torch.split(left, size, 1), torch.split(right, size, 1), strict=True)
    torch.bmm(first.mT, second, out=target)
    for first, second in others:
        target.baddbmm_(first.mT, second)
    if not whole:
        into.copy_(target)


def _multiple(count: int, of: int) -> int:
    return -(-count // of) * of
