"""Writes the held-out cases of every skill to models/eval/SKILL.jsonl; models/eval/README.md has the scoring rules."""

import hashlib
import json
from pathlib import Path

from data import mix
from data.base import Dialogue, Reply, dumps
from data.render import render

FOLDER = Path(__file__).parents[1] / "models" / "eval"
COUNTS = {"arithmetic": 200, "occurrences": 100, "copy": 100, "talk": 100, "story": 60, "outside": 100, "tools": 200,
          "tools_unseen": 100, "results": 100, "agent": 100, "agent_unseen": 60, "recall_1000": 50, "recall_4000": 50}


def messages(d: Dialogue) -> list[dict]:
    """The dialogue up to its last reply, as an OpenAI request carries it."""
    found = [{"role": "system", "content": d.system}] if d.system else []
    ids: list[str] = []
    for i, turn in enumerate(d.turns[:-1]):
        if isinstance(turn, Reply):
            message = {"role": "assistant", "content": turn.text}
            if d.thinking and d.tools:
                message["reasoning_content"] = turn.think
            ids = [f"call_{i}_{j}" for j in range(len(turn.calls))]
            if turn.calls:
                message["tool_calls"] = [
                    {"id": id, "type": "function", "function": {"name": c.name, "arguments": dumps(c.arguments)}}
                    for id, c in zip(ids, turn.calls)]
            found.append(message)
            continue
        found += [{"role": "tool", "tool_call_id": id, "content": r} for id, r in zip(ids, turn.results)]
        if turn.text:
            found.append({"role": "user", "content": turn.text})
    return found


def record(d: Dialogue) -> dict:
    """One line of a split."""
    request: dict = {"messages": messages(d)}
    if d.tools:
        request["tools"] = [{"type": "function", "function": t} for t in d.tools]
    if d.thinking:
        request["reasoning_effort"] = d.effort
    else:
        request["thinking"] = {"type": "disabled"}
    prompt = render(d, answer=False).string()
    return {"skill": d.skill, "request": request, "prompt_sha256": hashlib.sha256(prompt.encode()).hexdigest(), "expect": d.expect}


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for skill, count in COUNTS.items():
        lines = [json.dumps(record(d), ensure_ascii=False) for d in mix.cases(skill, count)]
        (FOLDER / f"{skill}.jsonl").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
