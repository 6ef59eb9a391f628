"""Two k-quant encoders for the q2 recipe: plain rounding, no importance matrix. Layouts are ggml's, 256 values a block."""

import gguf.quants
import numpy as np


def _half(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float16 bytes [n, 2] and the values they stand for [n]."""
    h = x.astype(np.float16)
    return h[:, None].view(np.uint8), h.astype(np.float64)


def _inverse(x: np.ndarray) -> np.ndarray:
    return np.divide(1.0, x, out=np.zeros_like(x), where=x > 0)


def q2_k(w: np.ndarray) -> np.ndarray:
    """[..., 256 k] -> blocks [n, 84]: 16 groups of 16 values, each 2 bits with a 4-bit scale and a 4-bit minimum."""
    groups = w.reshape(-1, 16, 16).astype(np.float64)
    low = np.minimum(groups.min(-1), 0.0)
    step = (groups.max(-1) - low) / 3
    scale_bytes, scale = _half(step.max(1) / 15)
    low_bytes, low_scale = _half(-low.min(1) / 15)
    scales = np.clip(np.rint(step * _inverse(scale)[:, None]), 0, 15).astype(np.uint8)
    minima = np.clip(np.rint(-low * _inverse(low_scale)[:, None]), 0, 15).astype(np.uint8)
    shifted = groups + (low_scale[:, None] * minima)[..., None]
    codes = np.clip(np.rint(shifted * _inverse(scale[:, None] * scales)[..., None]), 0, 3).astype(np.uint8)
    # Byte j of each 128-value half holds values j, j+32, j+64 and j+96.
    lanes = codes.reshape(-1, 2, 4, 32)
    packed = sum(lanes[:, :, i] << (2 * i) for i in range(4)).astype(np.uint8).reshape(-1, 64)
    return np.concatenate([scales | minima << 4, packed, scale_bytes, low_bytes], 1)


def iq2_xxs(w: np.ndarray) -> np.ndarray:
    """[..., 256 k] -> blocks [n, 66]: 8 groups of 32 values as four 8-value grid points, 7-bit signs and a 4-bit scale."""
    gguf.quants.IQ2_XXS.init_grid()
    grid = gguf.quants.IQ2_XXS.grid.reshape(256, 8).astype(np.float64)
    x = w.reshape(-1, 8, 4, 8).astype(np.float64)
    negative = x < 0
    # Only even numbers of minus signs can be stored, so an odd group flips its weakest value.
    weakest = np.abs(x).argmin(-1)[..., None]
    odd = negative.sum(-1, keepdims=True) % 2 == 1
    np.put_along_axis(negative, weakest, np.take_along_axis(negative, weakest, -1) ^ odd, -1)
    magnitude = np.where(negative, -x, x)
    wanted = 0.95 * np.abs(x).max((2, 3)) / grid.max()
    scale_bytes, scale = _half(wanted.max(1) * 4 / 15.5)
    levels = np.clip(np.rint(wanted * 4 * _inverse(scale)[:, None] - 0.5), 0, 15).astype(np.uint32)
    unit = _inverse(scale[:, None] * (0.5 + levels) / 4)[..., None, None]
    points = _nearest((magnitude * unit).reshape(-1, 8), grid).reshape(-1, 8, 4)
    signs = (negative[..., :7] << np.arange(7)).sum(-1).astype(np.uint32)
    high = (signs << (7 * np.arange(4, dtype=np.uint32))).sum(-1, dtype=np.uint32) | levels << np.uint32(28)
    words = np.concatenate([points, high.astype("<u4")[..., None].view(np.uint8)], -1)
    return np.concatenate([scale_bytes, words.reshape(-1, 64)], 1)


def _nearest(values: np.ndarray, grid: np.ndarray, chunk: int = 1 << 15) -> np.ndarray:
    """Index of the closest grid point to each row."""
    lengths = (grid**2).sum(1)
    parts = [np.argmin(lengths - 2 * values[i : i + chunk] @ grid.T, 1) for i in range(0, len(values), chunk)]
    return np.concatenate(parts).astype(np.uint8)
