"""The stacked network is L plain networks: the same outputs, the same gradients, whatever the neighbours are."""

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from core.forces import relative_energy_scale
from core.leapfrog import leapfrog, leapfrog_with_slope
from core.network import OUTPUTS, FullyConnectedNN
from core.timestep import proposed_step
from tests.systems import GRAVITY, random_system

ACTIVATIONS = {"tanh": torch.nn.Tanh, "relu": torch.nn.ReLU, "silu": torch.nn.SiLU}
DTYPE = torch.float64


def network_of(widths: Sequence[int], hidden: Sequence[int] = (24, 40), activation: str = "tanh") -> FullyConnectedNN:
    """Lane k is drawn with seed k + its width, so that a lane is the same in any pack."""
    network = FullyConnectedNN(widths, hidden, activation, DTYPE, torch.device("cpu"))
    for lane, width in enumerate(widths):
        network.initialize(lane, torch.Generator().manual_seed(width), output_bias=math.log(0.1))
    return network


def inputs_of(widths: Sequence[int], rows: int) -> Tensor:
    """Random inputs of each lane at its own width, zeros behind, (L, rows, widest)."""
    inputs = torch.zeros(len(widths), rows, max(widths), dtype=DTYPE)
    for lane, width in enumerate(widths):
        inputs[lane, :, :width] = torch.randn(rows, width, dtype=DTYPE, generator=torch.Generator().manual_seed(width))
    return inputs


def gradients_of(network: FullyConnectedNN, inputs: Tensor, gradient: Tensor, masks: Sequence[Tensor] = ()) -> Tensor:
    """Flat gradients (L, P) of sum(gradient * output)."""
    flat = torch.zeros_like(network.flat)
    network.backward(network.forward(inputs, masks=masks), gradient, network.views(flat))
    return flat


def plain(network: FullyConnectedNN, lane: int) -> torch.nn.Sequential:
    """A torch.nn.Sequential of Linear layers with one lane's weights."""
    sizes = [network.input_widths[lane], *network.dims[1:]]
    layers: list[torch.nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        layers += [torch.nn.Linear(fan_in, fan_out, dtype=DTYPE), ACTIVATIONS[network.activation]()]
    sequential = torch.nn.Sequential(*layers[:-1])
    sequential.load_state_dict(network.named(network.flat[lane], lane))
    return sequential


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_each_lane_equals_a_plain_sequential(activation):
    widths = [11, 33, 20]
    network, inputs = network_of(widths, activation=activation), inputs_of(widths, 16)
    padded = network.embed(inputs)
    weight = torch.randn(3, 16, OUTPUTS, dtype=DTYPE, generator=torch.Generator().manual_seed(0))
    output, gradients = network(padded), gradients_of(network, padded, weight)
    assert torch.equal(network.forward(padded).output, output)
    for lane, width in enumerate(widths):
        sequential = plain(network, lane)
        expected = sequential(inputs[lane, :, :width])
        torch.testing.assert_close(output[lane], expected.detach(), rtol=1e-13, atol=1e-14)
        (weight[lane] * expected).sum().backward()
        own = network.named(gradients[lane], lane)
        for name, parameter in sequential.named_parameters():
            torch.testing.assert_close(own[name], parameter.grad, rtol=1e-12, atol=1e-14)


def test_dropout_masks_act_on_outputs_and_gradients():
    network, inputs = network_of([8]), inputs_of([8], 8)
    generator = torch.Generator().manual_seed(0)
    masks = [torch.rand(1, 8, size, dtype=DTYPE, generator=generator).round() * 2 for size in (24, 40)]
    leaves = [tuple(part.clone().requires_grad_() for part in layer) for layer in network.layers]
    value = inputs
    for (weight, bias), mask in zip(leaves, masks, strict=False):
        value = torch.tanh(value @ weight + bias) * mask
    expected = value @ leaves[-1][0] + leaves[-1][1]
    torch.testing.assert_close(network.forward(inputs, masks=masks).output, expected.detach())
    expected.sum().backward()
    gradients = network.views(gradients_of(network, inputs, torch.ones(1, 8, OUTPUTS, dtype=DTYPE), masks))
    for ours, leaf in zip(gradients, leaves, strict=True):
        for mine, theirs in zip(ours, leaf, strict=True):
            torch.testing.assert_close(mine, theirs.grad)


@pytest.mark.parametrize("rows", [3, 8, 37])
@pytest.mark.parametrize("widths", [[11], [11, 66], [66, 11, 44, 23], [10 * k for k in range(1, 12)]])
def test_lane_does_not_depend_on_its_neighbours(widths, rows):
    """Bit for bit, forward and backward, whoever else is in the pack and however wide."""
    network, inputs = network_of(widths), inputs_of(widths, rows)
    padded = network.embed(inputs)
    output = network(padded)
    gradients = gradients_of(network, padded, output)
    for lane, width in enumerate(widths):
        alone = network_of([width])
        own = alone.embed(inputs[lane : lane + 1, :, :width])
        single = alone(own)
        assert torch.equal(single[0], output[lane])
        single_gradients = alone.named(gradients_of(alone, own, single)[0], 0)
        for name, tensor in network.named(gradients[lane], lane).items():
            assert torch.equal(single_gradients[name], tensor), name


@pytest.mark.parametrize("widths", [[11, 66], [66, 11, 44, 23]])
def test_update_of_a_lane_does_not_depend_on_its_neighbours(widths):
    """A fused optimizer works in blocks of numbers: where a lane's weights stand in its row must not matter."""

    def trained(network: FullyConnectedNN, lane: int, inputs: Tensor) -> dict[str, Tensor]:
        parameter = torch.nn.Parameter(network.flat[lane])
        optimizer = torch.optim.Adam([parameter], lr=0.01, weight_decay=0.01, fused=True)
        for _ in range(20):
            parameter.grad = gradients_of(network, inputs, network(inputs))[lane]
            optimizer.step()
        return network.named(network.flat[lane], lane)

    inputs = inputs_of(widths, 8)
    for lane, width in enumerate(widths):
        packed, alone = network_of(widths, hidden=(7, 13, 3)), network_of([width], hidden=(7, 13, 3))
        together = trained(packed, lane, packed.embed(inputs))
        single = trained(alone, 0, alone.embed(inputs[lane : lane + 1, :, :width]))
        for name, tensor in single.items():
            assert torch.equal(together[name], tensor), name


def test_row_does_not_depend_on_the_number_of_rows():
    network = network_of([33])
    many = network(network.embed(inputs_of([33], 64)))
    for rows in (1, 2, 5, 8, 13):
        few = network(network.embed(inputs_of([33], 64)[:, :rows]))
        assert torch.equal(few[:, :rows], many[:, :rows])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_does_not_depend_on_rows_of_zeros_behind_it(dtype):
    """A lane whose minibatch is not full yet gets as many rows as the fullest one."""
    network = FullyConnectedNN([11, 11], (64, 64), "tanh", dtype, torch.device("cpu"))
    for lane in range(2):
        network.initialize(lane, torch.Generator().manual_seed(lane), output_bias=-2.0)
    inputs, slope = inputs_of([11, 11], 512), torch.randn(2, 512, 2, generator=torch.Generator().manual_seed(1))
    for rows in (8, 40, 128, 136, 160, 224, 264, 304, 400, 504):
        few, many = slope[:, :rows].to(dtype), slope.to(dtype)
        many[:, rows:] = 0
        alone = gradients_of(network, network.embed(inputs[:, :rows]), few)
        padded = gradients_of(network, network.embed(inputs), many)
        assert torch.equal(alone, padded), rows


def test_initial_weights_are_drawn_at_the_lanes_own_width():
    """As torch.nn.Linear does: uniform within 1 / sqrt(fan_in); the output layer ten times smaller, around its bias."""
    network = network_of([16, 64], hidden=(400,))
    for lane, width in enumerate((16, 64)):
        own = network.named(network.flat[lane], lane)
        assert own["0.weight"].shape == (400, width)
        for name, bound in (("0.weight", width**-0.5), ("0.bias", width**-0.5), ("2.weight", 0.1 * 400**-0.5)):
            assert 0.95 * bound < own[name].abs().max() <= bound
        assert (own["2.bias"] - math.log(0.1)).abs().max() <= 0.1 * 400**-0.5


def test_untrained_network_proposes_about_one_step():
    network = network_of([33])
    steps = network(network.embed(inputs_of([33], 64)))[..., 0].exp()
    assert steps.max() < 1.5 * 0.1
    assert steps.min() > 0.1 / 1.5


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("n_steps", [1, 5])
def test_gradient_of_the_relative_energy_error_in_the_weights(activation, n_steps):
    """The chain that training uses, closed-form slope and written-out backward, against autograd and differences."""
    bodies, rows = 3, 4
    state = random_system(bodies, 2, leading=(1, rows))
    energy, magnitude = GRAVITY.energy(state)
    scale = relative_energy_scale(energy, magnitude)
    network, inputs = network_of([6], hidden=(5, 4), activation=activation), inputs_of([6], rows)
    inputs = network.embed(inputs)

    def rel_dE(flat: Tensor) -> Tensor:
        output = network(inputs, network.views(flat))[:, :rows, 0]
        dt = proposed_step(output, torch.ones_like(output), 1e-8)
        return (leapfrog(state, dt, GRAVITY, n_steps).energy - energy).abs() / scale

    flat = network.flat.clone().requires_grad_()
    assert torch.autograd.gradcheck(rel_dE, flat)
    (expected,) = torch.autograd.grad(rel_dE(flat).sum(), flat)
    forward = network.forward(inputs)
    dt = proposed_step(forward.output[:, :rows, 0], torch.ones_like(energy), 1e-8)
    block, (slope, *_) = leapfrog_with_slope(state, dt, GRAVITY, n_steps)
    gradient = torch.zeros_like(forward.output)
    gradient[:, :rows, 0] = (block.energy - energy).sign() / scale * slope * dt
    ours = torch.zeros_like(flat)
    network.backward(forward, gradient, network.views(ours))
    assert expected.abs().max() > 0
    torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9 * float(expected.abs().max()))
