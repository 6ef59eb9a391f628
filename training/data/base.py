"""What every generator shares: the random source with its train/test split, and the parts of a dialogue."""

import json
import random
import zlib
from dataclasses import dataclass, field
from typing import Any, Sequence, TypeVar

T = TypeVar("T")
HELD_OUT_ONE_IN = 10


def held_out(key: object) -> bool:
    """Whether a case belongs to the test split; stable across runs and machines."""
    return zlib.crc32(repr(key).encode()) % HELD_OUT_ONE_IN == 0


class Source(random.Random):
    """A seeded random source that yields either training cases or held-out ones."""

    def __init__(self, seed: int, test: bool = False):
        super().__init__(seed)
        self.test = test

    def allowed(self, key: object) -> bool:
        """Whether `key` is on this source's side of the split."""
        return held_out(key) == self.test

    def chance(self, p: float) -> bool:
        """True with probability p."""
        return self.random() < p

    def some(self, items: Sequence[T], low: int, high: int) -> list[T]:
        """Between low and high distinct items."""
        return self.sample(list(items), min(len(items), self.randint(low, high)))


@dataclass
class Call:
    """One tool call; `arguments` keeps the order in which it is written."""

    name: str
    arguments: dict[str, Any]


@dataclass
class Reply:
    """What the assistant says in one turn."""

    text: str = ""
    think: str = ""
    calls: list[Call] = field(default_factory=list)
    shows_steps: bool = False  # Without reasoning before it, the answer itself is the reasoning.
    repeats: bool = False  # The text is one that the user said.

    def said(self, reasoned: bool) -> str:
        """The text after reasoning, or without any."""
        return self.think if self.shows_steps and not reasoned else self.text


@dataclass
class User:
    """A user turn, or the results of the calls before it."""

    text: str = ""
    results: list[str] = field(default_factory=list)


@dataclass
class Dialogue:
    """Turns alternate User, Reply. `weight` is the loss weight of replies; `expect` says how a test case is scored."""

    skill: str
    turns: list[User | Reply]
    tools: list[dict] = field(default_factory=list)
    system: str = ""
    thinking: bool = False
    effort: str = "low"
    weight: float = 1.0
    expect: dict = field(default_factory=dict)


def dumps(value: Any) -> str:
    """JSON as the prompt format writes it."""
    return json.dumps(value, ensure_ascii=False)
