"""Optimizers over lanes: each lane's parameters are a row of a matrix (L, P), and so are its moments.

Torch's fused kernels do the arithmetic, those that torch.optim.Adam, AdamW and SGD call with ``fused=True``; without
their bookkeeping a step of a 64-64 network takes a quarter of the time.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from core.config import Config

#: Those of torch.optim.
_BETAS, _EPS = (0.9, 0.999), 1e-8
#: Names of the moments (L, P) that each optimizer keeps, as torch.optim has them.
_MOMENTS = {"adam": ("exp_avg", "exp_avg_sq"), "adamw": ("exp_avg", "exp_avg_sq"), "sgd": ("momentum_buffer",)}


class Optimizer:
    """Adam, AdamW or SGD on the rows of ``flat`` (L, P), each with its own learning rate, weight decay and momentum."""

    def __init__(self, configs: Sequence[Config], flat: Tensor):
        self._configs = configs
        self._kind = configs[0].optimizer
        #: By name, (L, P) each.
        self.moments = {name: torch.zeros_like(flat) for name in _MOMENTS.get(self._kind, ())}
        #: d loss / d parameters, whose first rows are those of the lanes that take a step.
        self.gradient = torch.zeros_like(flat)
        #: Steps (L,) that each lane has taken, as the kernels want them.
        self.steps = torch.zeros(len(configs), device=flat.device)
        # Lists of a row's gradient, and of a lane's weights, moments and step count: views, made once.
        self._gradients = [[row] for row in self.gradient.unbind(0)]
        parts = (flat, *self.moments.values(), self.steps)
        self._own = [[[row] for row in rows] for rows in zip(*(part.unbind(0) for part in parts), strict=True)]

    def step(self, lanes: Sequence[int], rows: Sequence[int]) -> None:
        """Take a step of each of the ``lanes`` along its row of the gradient."""
        before = self.steps.tolist() if self._kind == "sgd" else []
        if len(lanes) == len(self.steps):
            self.steps += 1
        else:
            self.steps[torch.tensor(lanes, device=self.steps.device)] += 1
        for lane, row in zip(lanes, rows, strict=True):
            config, own, gradient = self._configs[lane], self._own[lane], self._gradients[row]
            if self._kind == "sgd":
                weights, momentum, _ = own
                torch._fused_sgd_(
                    weights,
                    gradient,
                    momentum if config.momentum else [],
                    lr=config.lr,
                    momentum=config.momentum,
                    weight_decay=config.weight_decay,
                    dampening=0.0,
                    nesterov=False,
                    maximize=False,
                    is_first_step=not before[lane],
                )
                continue
            weights, mean, square, count = own
            (torch._fused_adamw_ if self._kind == "adamw" else torch._fused_adam_)(
                weights,
                gradient,
                mean,
                square,
                [],
                count,
                lr=config.lr,
                beta1=_BETAS[0],
                beta2=_BETAS[1],
                weight_decay=config.weight_decay,
                eps=_EPS,
                amsgrad=False,
                maximize=False,
            )

    def state(self, lane: int) -> dict[str, Tensor]:
        """Return what a lane's optimizer has come to: its step count and moments (P,) by name; empty before a step."""
        if not self.steps[lane]:
            return {}
        return {"step": self.steps[lane], **{name: moment[lane] for name, moment in self.moments.items()}}


def minimise(weights: Tensor, config: Config, closure: Callable[[], tuple[Tensor, Tensor]]) -> float:
    """Take one L-BFGS step (up to 20 iterations) on ``closure() -> loss, gradient`` of the ``weights`` (P,).

    It starts afresh each time: curvature belongs to one function, and the next step has other samples.
    weight_decay adds its L2 term, as it does to Adam's gradient. Return the loss, NaN for a step that ended
    in numbers that are not finite; it is taken back.
    """
    parameter, before, decay = torch.nn.Parameter(weights), weights.clone(), config.weight_decay

    def evaluate() -> Tensor:
        loss, gradient = closure()
        parameter.grad = gradient + decay * weights
        return loss + 0.5 * decay * weights.square().sum()

    optimizer = torch.optim.LBFGS([parameter], lr=config.lr, line_search_fn="strong_wolfe")
    loss = float(optimizer.step(evaluate))  # type: ignore[arg-type, no-untyped-call]
    if not bool(torch.isfinite(weights).all()):
        loss = torch.nan
    if loss - loss != 0:
        weights.copy_(before)
    return loss
