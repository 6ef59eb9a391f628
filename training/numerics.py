"""Rounding that is part of the model: FP8 KV rows, FP4 indexer rows, MXFP4 expert weights, and the Hadamard rotation.

Every function returns values on the coarse grid but in the input's dtype. `straight_through` lets gradients pass.
"""

import torch
from torch import Tensor


def straight_through(x: Tensor, rounded: Tensor) -> Tensor:
    """`rounded` forward, the identity backward."""
    return x + (rounded - x).detach()


def pow2_ceil(x: Tensor) -> Tensor:
    """Smallest power of two >= x, read off the float32 bits as the official kernels do."""
    bits = x.float().view(torch.int32)
    exponent = ((bits >> 23) & 0xFF) - 127 + ((bits & 0x7FFFFF) != 0).int()
    return torch.exp2(exponent.to(x.dtype if x.dtype == torch.float64 else torch.float32))


def round_e4m3(x: Tensor) -> Tensor:
    """Nearest-even float8 e4m3, for |x| <= 448."""
    if x.dtype != torch.float64:
        return x.to(torch.float8_e4m3fn).to(x.dtype)
    _, exponent = torch.frexp(x.abs())
    step = torch.exp2((exponent.double() - 1).clamp_min(-6) - 3)
    return (x / step).round() * step


def round_e2m1(x: Tensor) -> Tensor:
    """Nearest-even float4 e2m1, for |x| <= 6."""
    magnitude = x.abs()
    step = torch.where(magnitude < 2, 0.5, torch.where(magnitude < 4, 1.0, 2.0)).to(x.dtype)
    return (x / step).round() * step


def fp8_blocks(x: Tensor, block: int = 64) -> Tensor:
    """E4M3 with one power-of-two scale per `block` values of the last axis (model.md: Q8)."""
    v = x.unflatten(-1, (-1, block))
    peak = v.abs().amax(-1, keepdim=True).clamp_min(1e-4)
    scale = pow2_ceil(peak.float() * (1.0 / 448.0)).to(x.dtype)
    return (round_e4m3((v / scale).clamp(-448.0, 448.0)) * scale).flatten(-2)


def fp4_blocks(x: Tensor) -> Tensor:
    """E2M1 with one power-of-two scale per 32 values of the last axis (model.md: Q4; also the MXFP4 grid)."""
    v = x.unflatten(-1, (-1, 32))
    peak = v.abs().amax(-1, keepdim=True).clamp_min(6 * 2.0**-126)
    scale = pow2_ceil(peak.float() * (1.0 / 6.0)).to(x.dtype)
    return (round_e2m1(v / scale).clamp(-6.0, 6.0) * scale).flatten(-2)


def hadamard(n: int) -> Tensor:
    """Orthonormal Walsh-Hadamard matrix in Sylvester order, [n, n], symmetric."""
    h = torch.ones(1, 1, dtype=torch.float64)
    while h.shape[0] < n:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)], 0)
    return h * n**-0.5
