"""V4's tokenizer with its merge list cut short: the same pre-tokenizer, byte alphabet, merge order and specials.

Ids below the specials equal those of the full tokenizer. `vocab.json` beside this file keeps the list
(`python tokenizer.py TOKENIZER_JSON` writes it from the published tokenizer.json).
"""

import json
import sys
from functools import cache
from pathlib import Path

import regex

from config import Config

VOCAB_FILE = Path(__file__).with_name("vocab.json")
PUNCTUATION = r"!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~"
SPLITS = [
    regex.compile(r"\p{N}{1,3}"),
    regex.compile("[一-龥\u3040-ゟ゠-ヿ]+"),
    regex.compile(
        rf"[{PUNCTUATION}][A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
]
HEAD = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"]
BOS, EOS, PAD = 0, 1, 2


def byte_alphabet() -> list[str]:
    """GPT-2's printable stand-in for each byte value."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters, spare = [""] * 256, 0
    for byte in range(256):
        if byte in printable:
            letters[byte] = chr(byte)
        else:
            letters[byte] = chr(256 + spare)
            spare += 1
    return letters


class Tokenizer:
    """Byte-level BPE. `encode` never yields special ids; `special` looks one up by spelling."""

    def __init__(self, path: Path = VOCAB_FILE):
        stored = json.loads(path.read_text())
        self.base: list[str] = stored["tokens"]
        self.merges: list[list[str]] = stored["merges"]
        self.specials: list[str] = stored["specials"]
        self.tokens = [*self.base, *self.specials]
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        self.ranks = {tuple(pair): rank for rank, pair in enumerate(self.merges)}
        self.alphabet = byte_alphabet()
        self.bytes_of = {letter: byte for byte, letter in enumerate(self.alphabet)}
        self.piece = cache(self._piece)

    def __len__(self) -> int:
        return len(self.tokens)

    def special(self, spelling: str) -> int:
        """The id of an added token."""
        return self.ids[spelling]

    def encode(self, text: str) -> list[int]:
        """Plain text -> ids; spellings of special tokens in it stay plain text."""
        pieces = [text]
        for split in SPLITS:
            pieces = [part for piece in pieces for part in isolate(split, piece)]
        return [i for piece in pieces for i in self.piece(piece)]

    def _piece(self, piece: str) -> tuple[int, ...]:
        return self.merge(piece.encode())

    def merge(self, data: bytes) -> tuple[int, ...]:
        """Ids of bytes that are one pre-token or a part of one."""
        parts = [self.alphabet[byte] for byte in data]
        while len(parts) > 1:
            pairs = list(zip(parts, parts[1:]))
            best = min(range(len(pairs)), key=lambda i: self.ranks.get(pairs[i], 1 << 30))
            if pairs[best] not in self.ranks:
                break
            parts[best : best + 2] = ["".join(pairs[best])]
        return tuple(self.ids[part] for part in parts)

    def decode(self, ids: list[int]) -> str:
        """Ids -> text; specials appear literally."""
        out = bytearray()
        for i in ids:
            if i >= len(self.base) or i <= PAD:
                out += self.tokens[i].encode()
            else:
                out += bytes(self.bytes_of[letter] for letter in self.tokens[i])
        return out.decode("utf-8", "replace")


def isolate(split: regex.Pattern, piece: str) -> list[str]:
    """Matches and the text between them, in order: the `Isolated` split of the reference tokenizer."""
    parts, end = [], 0
    for match in split.finditer(piece):
        if match.start() > end:
            parts.append(piece[end : match.start()])
        parts.append(match.group())
        end = match.end()
    if end < len(piece):
        parts.append(piece[end:])
    return parts


def cut_down(source: Path, vocab: int) -> dict:
    """The first tokens and merges of the published tokenizer, with its named special tokens behind them."""
    full = json.loads(source.read_text())
    names = [t["content"] for t in full["added_tokens"] if t["id"] > PAD and "holder_" not in t["content"]]
    specials = [n for n in names if "place▁holder▁no" not in n]
    specials += [f"<｜place▁holder▁no▁{i}｜>" for i in range(-len(specials) % 8)]
    by_id = sorted(full["model"]["vocab"].items(), key=lambda item: item[1])
    base = [token for token, _ in by_id[: vocab - len(specials)]]
    known = set(base)
    merges = [m.split(" ") if isinstance(m, str) else m for m in full["model"]["merges"]]
    merges = [m for m in merges if "".join(m) in known]
    assert base[:3] == HEAD and len(base) + len(specials) == vocab
    assert merges == [m.split(" ") if isinstance(m, str) else m for m in full["model"]["merges"][: len(merges)]]
    return {"tokens": base, "merges": merges, "specials": specials}


if __name__ == "__main__":
    VOCAB_FILE.write_text(json.dumps(cut_down(Path(sys.argv[1]), Config().vocab), ensure_ascii=False, indent=0) + "\n")
