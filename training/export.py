"""Writes keid-tiny.gguf from trained weights, and can read such a file back into the model.

`python export.py --weights DIR --out FILE` takes the half-precision parts that train.py leaves, or a file that was written
before in DIR's place. `--recipe q2` stores the routed experts as IQ2_XXS and Q2_K instead, to measure what that costs. The
MTP block sits in the same file as `mtp.0.*`.
"""

import argparse
from pathlib import Path

import gguf
import numpy as np
import torch

from config import Config
from export_names import from_official, to_official
from gguf_layout import TEMPLATE, gguf_name, storage, write_metadata
from kquants import iq2_xxs, q2_k
from model import Model
from numerics import fp4_blocks
from tokenizer import BOS, EOS, PAD, Tokenizer
from train import load_half

RECIPES = {
    "default": {"w1": "MXFP4", "w2": "MXFP4", "w3": "MXFP4"},
    "q2": {"w1": "IQ2_XXS", "w2": "Q2_K", "w3": "IQ2_XXS"},
}
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4


def quantise(array: np.ndarray, kind: str) -> np.ndarray:
    """float32 [..., n] -> the blocks of a ggml type, as bytes [..., row bytes]."""
    if kind == "IQ2_XXS":
        return iq2_xxs(array).reshape(*array.shape[:-1], -1)
    if kind == "Q2_K":
        return q2_k(array).reshape(*array.shape[:-1], -1)
    return gguf.quants.quantize(array, gguf.GGMLQuantizationType[kind])


def token_types(tokenizer: Tokenizer) -> list[int]:
    """As converters assign them: tokens that look like `<｜…｜>` are control, the other added ones user-defined."""
    types = [NORMAL] * len(tokenizer.base) + [
        CONTROL if t.startswith("<｜") or t.startswith("<|") else USER_DEFINED for t in tokenizer.specials]
    types[BOS] = types[EOS] = types[PAD] = CONTROL
    return types


def write_tokenizer(w: gguf.GGUFWriter, tokenizer: Tokenizer) -> None:
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("joyai-llm")
    w.add_token_list(tokenizer.tokens)
    w.add_token_types(token_types(tokenizer))
    w.add_token_merges([" ".join(pair) for pair in tokenizer.merges])
    w.add_bos_token_id(BOS)
    w.add_eos_token_id(EOS)
    w.add_pad_token_id(PAD)
    w.add_add_bos_token(False)
    w.add_add_eos_token(False)
    w.add_chat_template(TEMPLATE)


def write(path: Path, model: Model, recipe: str) -> None:
    """One self-contained GGUF."""
    w = gguf.GGUFWriter(str(path), "deepseek4")
    w.add_name("keid-tiny")
    w.add_license("MIT OR Apache-2.0")
    w.add_description("A tiny demonstration model with the architecture of DeepSeek V4, trained by the Keid project.")
    write_metadata(w, model.c)
    write_tokenizer(w, Tokenizer())
    state = {k: v.float().numpy() if v.is_floating_point() else v.numpy() for k, v in model.state_dict().items()}
    for name, array in to_official(state).items():
        kind = storage(name, array.ndim, RECIPES[recipe])
        if kind == "MXFP4":  # The grid that training rounded to; the writer then finds the same codes.
            array = fp4_blocks(torch.from_numpy(array)).numpy()
        if kind in ("F32", "I32"):
            w.add_tensor(gguf_name(name), np.ascontiguousarray(array))
            continue
        blocks = quantise(np.ascontiguousarray(array), kind)
        if kind == "MXFP4":
            back = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType.MXFP4).reshape(array.shape)
            assert np.array_equal(back, array), f"{name}: MXFP4 is not exact"
        w.add_tensor(gguf_name(name), blocks, raw_dtype=gguf.GGMLQuantizationType[kind])
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def read(path: Path) -> Model:
    """The model with the dequantised weights of a file that `write` made."""
    model = Model(Config())
    names = {gguf_name(n): n for n in to_official({k: np.empty(0) for k in model.state_dict()})}
    official = {}
    for tensor in gguf.GGUFReader(str(path)).tensors:
        values = tensor.data if tensor.tensor_type == gguf.GGMLQuantizationType.I32 else gguf.quants.dequantize(
            tensor.data, tensor.tensor_type)
        official[names[tensor.name]] = np.array(values).reshape(tuple(int(n) for n in reversed(tensor.shape)))
    state = {k: torch.from_numpy(v) for k, v in from_official(model.c, official).items()}
    model.load_state_dict(state)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "models" / "keid-tiny.gguf")
    parser.add_argument("--recipe", choices=RECIPES, default="default")
    args = parser.parse_args()
    if args.weights.is_dir():
        model = Model(Config())
        load_half(model, args.weights)
    else:
        model = read(args.weights)
    write(args.out, model, args.recipe)
    print(f"{args.out}: {args.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
