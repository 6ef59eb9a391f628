"""Dialogue -> token ids, loss weights and prompt text, in the V4 (0731) prompt format.

The order of parts is that of DeepSeek's serving adapter: system texts first, then the tools block; reasoning of
earlier turns is kept only when tools are declared.
"""

import re
from dataclasses import dataclass, field
from enum import Enum
from itertools import accumulate, pairwise
from typing import Any

from data.base import Call, Dialogue, Reply, User, dumps
from tokenizer import Tokenizer

BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
USER, ASSISTANT = "<｜User｜>", "<｜Assistant｜>"
THINK, END_THINK, DSML = "<think>", "</think>", "｜DSML｜"
MARKS = (THINK, END_THINK, DSML)

EFFORT = {
    "low": "",
    "high": (
        "Reasoning Effort: Absolute maximum with no shortcuts permitted.\n"
        "You MUST be very thorough in your thinking and comprehensively decompose the problem to resolve the root "
        "cause, rigorously stress-testing your logic against all potential paths, edge cases, and adversarial "
        "scenarios.\n"
        "Explicitly write out your entire deliberation process, documenting every intermediate step, considered "
        "alternative, and rejected hypothesis to ensure absolutely no assumption is left unchecked.\n\n"
    ),
    "max": (
        "Reasoning Effort: Beyond maximum — exhaustive, relentless, and uncompromising.\n"
        "You MUST reason with the utmost depth and rigor, leaving absolutely nothing to chance: exhaustively "
        "decompose the problem into its most fundamental components, trace every causal chain to its root, and "
        "resolve the underlying cause rather than any surface symptom.\n"
        "Do not stop reasoning until you have independently verified the solution from multiple angles and are "
        "certain that no assumption remains unchecked and no error remains undiscovered.\n\n"
    ),
}

TOOLS_HEAD = """## Tools

You have access to a set of tools to help answer the user's question. You can invoke tools by writing a "<｜DSML｜tool_calls>" block like the following:

<｜DSML｜tool_calls>
<｜DSML｜invoke name="$TOOL_NAME">
<｜DSML｜parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</｜DSML｜parameter>
...
</｜DSML｜invoke>
<｜DSML｜invoke name="$TOOL_NAME2">
...
</｜DSML｜invoke>
</｜DSML｜tool_calls>

String parameters should be specified as is and set `string="true"`. For all other types (numbers, booleans, arrays, objects), pass the value in JSON format and set `string="false"`.

If thinking_mode is enabled (triggered by <think>), you MUST output your complete reasoning inside <think>...</think> BEFORE any tool calls or final response.

Otherwise, output directly after </think> with tool calls or final response.

### Available Tool Schemas

"""
TOOLS_TAIL = "\n\nYou MUST strictly follow the above defined tool name and parameter schemas to invoke tool calls.\n"

LISTENING = 0.05  # Loss weight of what the user says, beside 1 to 3 of replies.


class Kind(Enum):
    """How a piece becomes tokens."""

    PLAIN = 0
    SPECIAL = 1
    HEARD = 2  # What a user or a tool says, from which later pieces may quote.
    QUOTED = 3  # A copy, cut into tokens where its source is cut.


Heard = list[tuple[str, list[int]]]  # Texts with their ids, in order.


def quote(tokenizer: Tokenizer, value: str, heard: Heard) -> list[int]:
    """Ids of `value` with the cuts of the last text that has it; with its own cuts if none has.

    The same word is cut differently behind a space than behind a quote or a bracket: ` pear` is ` p|ear`, `"pear` is
    `"|pe|ar`. A copy whose cuts follow its source needs no spelling: apart from the space, each token is the one heard.
    """
    wanted = len(value.encode())
    for text, ids in reversed(heard):
        if value not in text:
            continue
        whole = list(re.finditer(rf"(?<!\w){re.escape(value)}(?!\w)", text))
        at = len(text[: whole[-1].start() if whole else text.rfind(value)].encode())
        ends = accumulate(len(tokenizer.tokens[i]) for i in ids)
        cuts = [at, *(end for end in ends if at < end < at + wanted), at + wanted]
        data = text.encode()
        return [i for a, b in pairwise(cuts) for i in tokenizer.merge(data[a:b])]
    return tokenizer.encode(value)


@dataclass
class Rendered:
    """Ids and the loss weight of predicting each; `pieces` holds (text, kind, weight)."""

    pieces: list[tuple[str, Kind, float]] = field(default_factory=list)

    def special(self, spelling: str, weight: float = 0.0) -> None:
        self.pieces.append((spelling, Kind.SPECIAL, weight))

    def text(self, text: str, weight: float = 0.0, kind: Kind = Kind.PLAIN) -> None:
        if text:
            self.pieces.append((text, kind, weight))

    def marked(self, text: str, weight: float = 0.0) -> None:
        """Format text in which the spellings of MARKS are special tokens."""
        while text:
            at, mark = min(((text.find(m), m) for m in MARKS if m in text), default=(len(text), ""))
            self.text(text[:at], weight)
            if mark:
                self.special(mark, weight)
            text = text[at + len(mark) :]

    def string(self) -> str:
        return "".join(piece for piece, _, _ in self.pieces)

    def tokens(self, tokenizer: Tokenizer) -> tuple[list[int], list[float]]:
        """Plain texts between two other pieces are tokenised as one; each id takes the weight of its last piece."""
        ids, weights, pending, pending_weight = [], [], "", 0.0
        heard: Heard = []

        def put(found: list[int], weight: float) -> None:
            ids.extend(found)
            weights.extend([weight] * len(found))

        for text, kind, weight in [*self.pieces, ("", Kind.PLAIN, 0.0)]:
            if text and kind is Kind.PLAIN:
                pending, pending_weight = pending + text, weight
                continue
            put(tokenizer.encode(pending), pending_weight)
            pending = ""
            if kind is Kind.SPECIAL:
                put([tokenizer.special(text)], weight)
            elif kind is Kind.HEARD:
                heard.append((text, tokenizer.encode(text)))
                put(heard[-1][1], weight)
            elif kind is Kind.QUOTED:
                put(quote(tokenizer, text, heard), weight)
        return ids, weights


def tools_block(tools: list[dict]) -> str:
    """The tool prompt; each schema as {"name", "description", "parameters"} in this order."""
    lines = [
        dumps({"name": t["name"], "description": t.get("description", ""), "parameters": t.get("parameters", {})})
        for t in tools
    ]
    return TOOLS_HEAD + "\n".join(lines) + TOOLS_TAIL


def write_calls(out: Rendered, calls: list[Call], weight: float) -> None:
    """The tool-call block."""
    out.marked("<｜DSML｜tool_calls>\n", weight)
    for call in calls:
        out.marked(f'<｜DSML｜invoke name="{call.name}">\n', weight)
        for key, value in call.arguments.items():
            flag = "true" if isinstance(value, str) else "false"
            out.marked(f'<｜DSML｜parameter name="{key}" string="{flag}">', weight)
            write_value(out, value, weight)
            out.marked("</｜DSML｜parameter>\n", weight)
        out.marked("</｜DSML｜invoke>\n", weight)
    out.marked("</｜DSML｜tool_calls>", weight)


def write_value(out: Rendered, value: Any, weight: float) -> None:
    """An argument: strings as they are, all else as JSON; each string in a list may have its own source."""
    if isinstance(value, str):
        out.text(value, weight, Kind.QUOTED)
    elif isinstance(value, dict):
        out.text(dumps(value), weight, Kind.QUOTED)
    elif isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        for i, item in enumerate(value):
            out.text('", "' if i else '["', weight)
            out.text(dumps(item)[1:-1], weight, Kind.QUOTED)
        out.text('"]', weight)
    else:
        out.text(dumps(value), weight)


def user_text(turn: User) -> str:
    """Results and text of one user turn."""
    parts = [f"<tool_result>{result}</tool_result>" for result in turn.results]
    return "\n\n".join(parts + ([turn.text] if turn.text else []))


def render(d: Dialogue, answer: bool = True, listening: float = LISTENING) -> Rendered:
    """The whole dialogue for training, or (answer=False) the prompt up to its last reply; `listening` weighs the user's texts."""
    out = Rendered()
    out.special(BOS)
    head = EFFORT[d.effort] if d.thinking else ""
    if d.tools:
        head += d.system + "\n\n" + tools_block(d.tools)
    else:
        head += d.system
    out.marked(head)
    last = len(d.turns) - 1
    for i, turn in enumerate(d.turns):
        if isinstance(turn, User):
            out.special(USER)
            out.text(user_text(turn), 0.0 if turn.results else listening, Kind.HEARD)
            out.special(ASSISTANT)
            continue
        reasons = d.thinking and (bool(d.tools) or i == last)
        out.special(THINK if reasons else END_THINK)
        if i == last and not answer:
            break
        if reasons:
            out.text(turn.think, d.weight)
            out.special(END_THINK, d.weight)
        out.text(turn.said(reasons), d.weight, Kind.QUOTED if turn.repeats else Kind.PLAIN)
        if turn.calls:
            out.text("\n\n", d.weight)
            write_calls(out, turn.calls, d.weight)
        out.special(EOS, d.weight)
    return out
