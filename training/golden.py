"""Golden logits of the exported file, in float64: models/golden/keid-tiny.{json,bin}.

`bin` holds little-endian arrays back to back; `json` gives dtype, shape and byte offset of each, in the layout of the
oracle's golden files. For every length n: `tokens/n` [n]; for both numerics, `exact` (no rounding of KV or indexer rows) and
`model` (FP8 and FP4 rounding), `NUMERICS/n/logits` [4, vocab] of the last four positions and `NUMERICS/n/mtp_logits` [vocab],
the draft after token n-1 from the streams at n-2. `model/n/greedy` [at most 16] continues greedily to the end of the reply, by
full recomputation.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from data import mix
from data.render import render
from export import read
from model import ALIGN, Model, Output
from tokenizer import EOS, PAD, Tokenizer

FOLDER = Path(__file__).parents[1] / "models"
# Length -> the case whose rendered dialogue is cut to that many tokens.
LENGTHS = {17: "arithmetic", 130: "story", 600: "tools", 2000: "recall_4000"}
# Lengths that are continued, by how many tokens at most.
GREEDY = {17: 16, 130: 16}


class Store:
    """Arrays appended to one blob."""

    def __init__(self):
        self.parts: list[bytes] = []
        self.index: dict[str, dict] = {}
        self.offset = 0

    def put(self, key: str, array: np.ndarray, dtype: str) -> None:
        data = np.ascontiguousarray(array.astype({"f32": "<f4", "i32": "<i4"}[dtype])).tobytes()
        self.index[key] = {"dtype": dtype, "shape": list(array.shape), "offset": self.offset}
        self.parts.append(data)
        self.offset += len(data)

    def save(self, stem: Path, meta: dict) -> None:
        stem.parent.mkdir(parents=True, exist_ok=True)
        stem.with_suffix(".bin").write_bytes(b"".join(self.parts))
        stem.with_suffix(".json").write_text(json.dumps({"meta": meta, "arrays": self.index}, indent=1) + "\n")


def forward(model: Model, ids: list[int], rounding: bool) -> Output:
    """The whole prompt at once; experts are already on their grid."""
    padded = ids + [PAD] * (-len(ids) % ALIGN)
    tokens = torch.tensor([padded])
    with torch.no_grad():
        return model(tokens, torch.zeros_like(tokens), rounding=(rounding, rounding))


def prompt(tokenizer: Tokenizer, skill: str, length: int) -> list[int]:
    """The first long enough dialogue of a skill, thinking or not, cut to `length` tokens; where it is continued, no earlier than
    its last reply begins: what users say is chance, and a choice between their words is a tie."""
    for case in mix.cases(skill, 40):
        ids, _ = render(case).tokens(tokenizer)
        begin = len(render(case, answer=False).tokens(tokenizer)[0]) if length in GREEDY else 0
        if begin <= length < len(ids):
            return ids[:length]
    raise SystemExit(f"no {skill} case can be cut to {length} tokens")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=FOLDER / "keid-tiny.gguf")
    args = parser.parse_args()
    model, tokenizer, store = read(args.model).double(), Tokenizer(), Store()
    for length, skill in LENGTHS.items():
        ids = prompt(tokenizer, skill, length)
        store.put(f"tokens/{length}", np.array(ids), "i32")
        for name, rounding in (("exact", False), ("model", True)):
            out = forward(model, ids, rounding)
            head = model.head.weight
            store.put(f"{name}/{length}/logits", (out.hidden[0, length - 4 : length] @ head.T).detach().numpy(), "f32")
            store.put(f"{name}/{length}/mtp_logits", (out.draft[0, length - 2] @ head.T).detach().numpy(), "f32")
        grown = list(ids)
        for _ in range(GREEDY.get(length, 0)):
            out = forward(model, grown, True)
            grown.append(int((out.hidden[0, len(grown) - 1] @ model.head.weight.T).argmax()))
            if grown[-1] == EOS:
                break
        if length in GREEDY:
            store.put(f"model/{length}/greedy", np.array(grown[length:]), "i32")
        print(length, skill, flush=True)
    store.save(FOLDER / "golden" / "keid-tiny", {"model": "keid-tiny.gguf", "lengths": list(LENGTHS), "numerics": ["exact", "model"]})


if __name__ == "__main__":
    main()
