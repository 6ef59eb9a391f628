#!/usr/bin/env python3
"""Makes the decoder vectors beside this file from the `gguf` package (0.19.0) and numpy.

Each NAME.bin is a u32 block count, that many encoded blocks, then the decoded weights as f32, all
little-endian. Blocks are random bytes with the half-precision scales set to ordinary and to extreme
values; the first two blocks are all zeros and all ones.

Usage: python make_vectors.py [BLOCKS_PER_TYPE]
"""

import pathlib
import sys

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES

# Byte offsets of half-precision fields.
F16_FIELDS = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
    "IQ2_XXS": [0], "IQ2_XS": [0], "IQ2_S": [0], "IQ3_XXS": [0], "IQ3_S": [0],
    "IQ1_S": [0], "IQ1_M": [], "IQ4_NL": [0], "IQ4_XS": [0], "TQ1_0": [52], "TQ2_0": [64],
    "MXFP4": [], "NVFP4": [], "BF16": [], "F16": [],
}
# Zeros, subnormals, the largest finite magnitudes, an infinity, a NaN.
EXTREME = [0x0000, 0x8000, 0x0001, 0x83FF, 0x7BFF, 0xFBFF, 0x7C00, 0x7E00]


def make(name, n, rng):
    block_bytes = GGML_QUANT_SIZES[T[name]][1]
    blocks = rng.integers(0, 256, (n, block_bytes), dtype=np.uint8)
    for at in F16_FIELDS[name]:
        ordinary = (rng.normal(0, 0.05, n)).astype(np.float16).view(np.uint16)
        extreme = rng.choice(np.array(EXTREME, np.uint16), n)
        scale = np.where(np.arange(n) % 3 == 2, extreme, ordinary)
        blocks[:, at : at + 2] = scale.astype("<u2")[:, None].view(np.uint8)
    blocks[0], blocks[1] = 0, 255
    with np.errstate(all="ignore"):
        decoded = quants.dequantize(blocks, T[name]).astype("<f4")
    return np.uint32(n).tobytes() + blocks.tobytes() + decoded.tobytes()


def main():
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    here = pathlib.Path(__file__).parent
    for name in F16_FIELDS:
        rng = np.random.default_rng(list(name.encode()))
        plain = GGML_QUANT_SIZES[T[name]][0] == 1
        (here / f"{name}.bin").write_bytes(make(name, 64 * n if plain else n, rng))


if __name__ == "__main__":
    main()
