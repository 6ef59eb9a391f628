"""Quick scores while training: a greedy decode equals the reference exactly when every reference token is the
model's own choice given the ones before, so one forward pass over the answers suffices."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from data import mix
from data.render import render
from tokenizer import PAD, Tokenizer

if TYPE_CHECKING:
    from train import Trainer

SKILLS = ("arithmetic", "occurrences", "copy", "talk", "outside", "tools", "tools_unseen", "results", "agent", "agent_unseen",
          "recall_1000", "recall_4000")
MORE = {"tools": 2}  # How many times as many cases of a skill, for a finer figure.


@cache
def pack_cases(tokenizer: Tokenizer, skills: tuple[str, ...], count: int, rows: int, length: int):
    """Held-out cases packed into batches; spans are (skill, batch, row, first answer position, end)."""
    batches, spans, row, at = [], [], 0, 0

    def fresh() -> mix.Batch:
        shape = (rows, length)
        return mix.Batch(np.full(shape, PAD, np.int16), np.zeros(shape, np.int16), np.zeros(shape, np.float16))

    batches.append(fresh())
    for skill in skills:
        for case in mix.cases(skill, count * MORE.get(skill, 1)):
            ids, _ = render(case).tokens(tokenizer)
            begin = len(render(case, answer=False).tokens(tokenizer)[0])
            if len(ids) > length:
                continue
            if at + len(ids) > length:
                row, at = row + 1, 0
            if row == rows:
                batches.append(fresh())
                row = 0
            until = min(length, -(-(at + len(ids)) // mix.ALIGN) * mix.ALIGN)
            batches[-1].tokens[row, at : at + len(ids)] = ids
            batches[-1].start[row, at:until] = at
            spans.append((skill, len(batches) - 1, row, at + begin, at + len(ids)))
            at = until
    return batches, spans


shared_tokenizer = cache(Tokenizer)


def exact_scores(trainer: Trainer, count: int, progress: float, short: tuple[int, int], long: tuple[int, int]) -> dict[str, float]:
    """Share of held-out cases whose whole answer, EOS included, is the greedy one; and accepted first drafts."""
    tokenizer = shared_tokenizer()
    hits: dict[str, list[bool]] = {}
    accepted = drafted = 0
    for skills, shape in ((SKILLS[:-1], short), (SKILLS[-1:], long)):
        wanted = count if shape is short else max(24, count // 2)
        batches, spans = pack_cases(tokenizer, skills, wanted, *shape)
        for index, batch in enumerate(batches):
            out, tokens = trainer.forward(batch, progress)
            with torch.no_grad():
                head = trainer.model.head.weight
                choice = (out.hidden.to(head.dtype) @ head.T).argmax(-1).cpu().numpy()
                draft = (out.draft.to(head.dtype) @ head.T).argmax(-1).cpu().numpy()
            for skill, at, row, begin, end in spans:
                if at != index:
                    continue
                answer = batch.tokens[row, begin:end]
                hits.setdefault(skill, []).append(bool((choice[row, begin - 1 : end - 1] == answer).all()))
                if row < len(draft):
                    accepted += int((draft[row, begin - 1 : end - 2] == answer[1:]).sum())
                    drafted += len(answer) - 1
    scores = {skill: round(float(np.mean(found)), 4) for skill, found in hits.items()}
    return {**scores, "draft_accepted": round(accepted / max(1, drafted), 4)}
