"""Muon for the matrices: momentum, then the nearest orthogonal matrix by Newton-Schulz iteration."""

from collections import defaultdict

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(g: Tensor, rounds: int = 5) -> Tensor:
    """[n, a, b] -> matrices with the same singular vectors and singular values near one."""
    x = g.bfloat16() if g.is_cuda else g
    wide = x.shape[-2] <= x.shape[-1]
    x = x if wide else x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(rounds):
        s = x @ x.mT
        x = a * x + (b * s + c * (s @ s)) @ x
    return x if wide else x.mT


class Muon:
    """Updates matrices grouped by shape, so that each step is a few batched products."""

    def __init__(self, params: list[nn.Parameter], momentum: float = 0.95, decay: float = 0.02):
        self.momentum, self.decay = momentum, decay
        self.groups: dict[tuple[int, int], list[nn.Parameter]] = defaultdict(list)
        for p in params:
            self.groups[tuple(p.shape[-2:])].append(p)
        self.state = {
            shape: torch.zeros(sum(p.numel() for p in ps) // (shape[0] * shape[1]), *shape, device=ps[0].device)
            for shape, ps in self.groups.items()
        }

    @torch.no_grad()
    def step(self, lr: float) -> None:
        for shape, params in self.groups.items():
            grads = torch.cat([p.grad.reshape(-1, *shape) for p in params])
            buffer = self.state[shape]
            buffer.lerp_(grads, 1 - self.momentum)
            update = orthogonalise(grads.lerp(buffer, self.momentum)).float()
            update *= -lr * max(1.0, shape[0] / shape[1]) ** 0.5
            torch._foreach_mul_(params, 1 - lr * self.decay)
            sizes = [p.numel() // (shape[0] * shape[1]) for p in params]
            parts = [u.view_as(p) for u, p in zip(update.split(sizes), params)]
            torch._foreach_add_(params, parts)


def adam_rate(name: str) -> float | None:
    """Learning rate of a parameter under Adam, or None for the matrices that Muon trains.

    The mixing matrices of hyper-connections sum over 1024 normalised inputs, so their entries must move slowly.
    """
    if name.endswith(".fn"):
        return 5e-4
    if name.endswith(("ffn.gate.weight", "weights_proj.weight")):
        return 1e-3
    if name in ("embed.weight", "head.weight"):
        return 3e-3
    if name.endswith((".ape", ".base", ".scale", "sink", "norm.weight")):
        return 3e-3
    return None


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], dict[float, list[nn.Parameter]]]:
    """(for Muon, for Adam by learning rate)."""
    muon, adam = [], defaultdict(list)
    for name, p in model.named_parameters():
        rate = adam_rate(name)
        if rate is None:
            muon.append(p)
        else:
            adam[rate].append(p)
    return muon, adam
