"""The Sinkhorn rounds of a hyper-connection site: plain PyTorch, and one fused Triton kernel each way for CUDA.

Both take `logits` [N, streams, streams] and return the doubly (nearly) stochastic matrices of model.md section 4.1.
The plain version is the definition; the kernels keep a token's 16 values in registers through all rounds.
"""

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # A CPU-only PyTorch has no Triton; the plain version serves there.
    triton = None


def sinkhorn_plain(logits: Tensor, rounds: int, eps: float) -> Tensor:
    """Definition: softmax over the second axis, then `rounds` normalisations of columns with rows between them."""
    c = logits.softmax(-1) + eps
    c = c / (c.sum(-2, keepdim=True) + eps)
    for _ in range(rounds - 1):
        c = c / (c.sum(-1, keepdim=True) + eps)
        c = c / (c.sum(-2, keepdim=True) + eps)
    return c


if triton is not None:

    @triton.jit
    def _forward_kernel(logits, out, sums, n, eps, ROUNDS: tl.constexpr, BLOCK: tl.constexpr):
        """`sums` [2*ROUNDS-1, N, 4] keeps every divisor, from which the backward pass rebuilds each round."""
        token = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        axis = tl.arange(0, 4)
        live = token < n
        at = token[:, None, None] * 16 + axis[None, :, None] * 4 + axis[None, None, :]
        mask = live[:, None, None]
        c = tl.load(logits + at, mask=mask, other=0.0)
        c = tl.exp(c - tl.max(c, axis=2)[:, :, None])
        c = c / tl.sum(c, axis=2)[:, :, None] + eps
        at_sum = token[:, None] * 4 + axis[None, :]
        for r in range(2 * ROUNDS - 1):
            if r % 2 == 0:
                s = tl.sum(c, axis=1) + eps
                c = c / s[:, None, :]
            else:
                s = tl.sum(c, axis=2) + eps
                c = c / s[:, :, None]
            tl.store(sums + r * n * 4 + at_sum, s, mask=live[:, None])
        tl.store(out + at, c, mask=mask)

    @triton.jit
    def _backward_kernel(grad, out, sums, result, n, eps, ROUNDS: tl.constexpr, BLOCK: tl.constexpr):
        """y = x / s with s = sum(x) + eps gives dx = (dy - sum(dy * y)) / s, and x = y * s."""
        token = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        axis = tl.arange(0, 4)
        live = token < n
        at = token[:, None, None] * 16 + axis[None, :, None] * 4 + axis[None, None, :]
        mask = live[:, None, None]
        c = tl.load(out + at, mask=mask, other=0.0)
        g = tl.load(grad + at, mask=mask, other=0.0)
        at_sum = token[:, None] * 4 + axis[None, :]
        for i in range(2 * ROUNDS - 1):
            r = 2 * ROUNDS - 2 - i
            s = tl.load(sums + r * n * 4 + at_sum, mask=live[:, None], other=1.0)
            if r % 2 == 0:
                g = (g - tl.sum(g * c, axis=1)[:, None, :]) / s[:, None, :]
                c = c * s[:, None, :]
            else:
                g = (g - tl.sum(g * c, axis=2)[:, :, None]) / s[:, :, None]
                c = c * s[:, :, None]
        p = c - eps
        g = p * (g - tl.sum(g * p, axis=2)[:, :, None])
        tl.store(result + at, g, mask=mask)


BLOCK = 64


@torch.library.custom_op("keid::sinkhorn", mutates_args=())
def _sinkhorn(logits: Tensor, rounds: int, eps: float) -> tuple[Tensor, Tensor]:
    n = logits.shape[0]
    out = torch.empty_like(logits)
    sums = torch.empty(2 * rounds - 1, n, 4, device=logits.device)
    _forward_kernel[(triton.cdiv(n, BLOCK),)](logits, out, sums, n, eps, ROUNDS=rounds, BLOCK=BLOCK)
    return out, sums


@_sinkhorn.register_fake
def _(logits, rounds, eps):
    return torch.empty_like(logits), logits.new_empty(2 * rounds - 1, logits.shape[0], 4)


@torch.library.custom_op("keid::sinkhorn_backward", mutates_args=())
def _sinkhorn_backward(grad: Tensor, out: Tensor, sums: Tensor, rounds: int, eps: float) -> Tensor:
    n = out.shape[0]
    result = torch.empty_like(out)
    _backward_kernel[(triton.cdiv(n, BLOCK),)](grad, out, sums, result, n, eps, ROUNDS=rounds, BLOCK=BLOCK)
    return result


@_sinkhorn_backward.register_fake
def _(grad, out, sums, rounds, eps):
    return torch.empty_like(out)


def _save(ctx, inputs, output):
    _, ctx.rounds, ctx.eps = inputs
    ctx.save_for_backward(*output)


def _grad(ctx, grad_out, _grad_sums):
    out, sums = ctx.saved_tensors
    return _sinkhorn_backward(grad_out.contiguous(), out, sums, ctx.rounds, ctx.eps), None, None


_sinkhorn.register_autograd(_grad, setup_context=_save)


def sinkhorn(logits: Tensor, rounds: int, eps: float) -> Tensor:
    """[N, streams, streams] float -> the same shape; fused on CUDA with four streams, plain elsewhere."""
    if logits.is_cuda and logits.shape[-1] == 4 and triton is not None:
        return _sinkhorn(logits.contiguous(), rounds, eps)[0]
    return sinkhorn_plain(logits, rounds, eps)
