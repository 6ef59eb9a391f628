"""The training mixture: dialogues of every skill, packed into rows; and the held-out cases."""

import multiprocessing as mp
import zlib
from collections import deque
from dataclasses import dataclass
from typing import Iterable, Iterator

import numpy as np

from data import agent, chat, numbers, recall, tools
from data.base import Dialogue, Reply, Source, User
from data.render import LISTENING, render
from tokenizer import PAD, Tokenizer

ALIGN = 128
MIN_ROOM = 256
# At least how many tokens the text around declared tools, a declaration, and an exchange (request, call, result, report) take;
# then a declaration without parameters, and an exchange in which the tool is named.
TOOLS_PROMPT, TOOL, EXCHANGE = 450, 100, 120
BRIEF_TOOL, NAMED = 50, 40
NAMING = 0.3  # Of the dialogues over several tools, how many ask for names instead of calls.
# What users say is nine tenths chance. Late in the run it would be more than half of the loss, and drown the rest in noise.
LISTEN_UNTIL, LISTENING_LATER = 0.3, 0.005
QUOTE_UNTIL = 0.4  # Until then some requests for names quote a declaration, from half of them at the start down to none.


@dataclass
class Batch:
    """tokens [B, T] int16; start [B, T] int16, where each position's dialogue begins; weight [B, T] float16."""

    tokens: np.ndarray
    start: np.ndarray
    weight: np.ndarray


def small(r: Source) -> Dialogue:
    """Several short exchanges without tools."""
    makers = r.choices([(numbers.exchange,), (chat.exchange,), (recall.copy,), (numbers.exchange, chat.exchange, recall.copy)],
                       [7, 4, 1, 2])[0]
    turns: list[User | Reply] = chat.acquaintance(r) if r.chance(0.04) else []
    for _ in range(r.choice([1, 1, 2, 3, 4, 6, 8])):
        ask, reply = r.choice(makers)(r)
        turns += [User(ask), reply]
    system = tools.system_text(r) if r.chance(0.5) else ""
    return Dialogue("small", turns, system=system, weight=2.0)


def with_mode(r: Source, d: Dialogue) -> Dialogue:
    """Chat mode, or thinking with one of the effort texts."""
    d.thinking = r.chance(0.1 if d.skill == "naming" else 0.5)
    d.effort = r.choices(["high", "low", "max"], [5, 3, 2])[0] if d.thinking else "low"
    return d


def sample(r: Source, length: int, progress: float) -> Dialogue:
    """One dialogue meant to fit into `length` tokens; `progress` 0..1 through the training raises recall lengths."""
    kind = r.random()
    if length >= 4000 and kind < 0.75:
        if kind < 0.4:
            return with_mode(r, recall.dialogue(r, r.randint(1500, length - 500), r.randint(4, 24)))
        return with_mode(r, tool_requests(r, r.randint(6, 16), length, progress))
    if kind < 0.32 or length < 640:
        return with_mode(r, small(r))
    if kind < 0.42:
        top = 250 + min(1.0, progress * 3) * 1300
        return with_mode(r, recall.dialogue(r, int(r.uniform(40, top)), r.randint(3, 16)))
    if kind < 0.92 or length < 1200:
        return with_mode(r, tool_requests(r, r.choice([1, 2, 3, 4, 4, 5, 6, 7]) if length > 1000 else 1, length, progress))
    return with_mode(r, agent.dialogue(r))


def tool_requests(r: Source, count: int, length: int, progress: float) -> Dialogue:
    """A dialogue over `count` tools with mostly about as many requests as tools; or one that asks for names alone.

    A tool asked for again is found by the request before, which the first request of a dialogue does not have.
    """
    if length > 1500 and r.chance(NAMING):
        brief = r.chance(0.5)
        most = min(20, (length - TOOLS_PROMPT) // ((BRIEF_TOOL if brief else TOOL) + NAMED))
        count = r.randint(3, most)
        return tools.naming(r, r.randint(count // 2, count), count, brief, 0.5 * max(0.0, 1 - progress / QUOTE_UNTIL))
    count = max(1, min(count, (length - TOOLS_PROMPT - EXCHANGE) // TOOL))
    most = max(1, min((length - TOOLS_PROMPT - TOOL * count) // EXCHANGE, count + 2))
    return tools.dialogue(r, r.randint(1, most) if r.chance(0.3) else most, count)


def fitted(d: Dialogue, tokenizer: Tokenizer, room: int, listening: float) -> tuple[list[int], list[float]]:
    """Ids and weights of the dialogue without the last exchanges that do not fit into `room` tokens; perhaps still too long."""
    ids, weights = render(d, listening=listening).tokens(tokenizer)
    while len(ids) > room and len(d.turns) > 2:
        d.turns = d.turns[:-2]
        ids, weights = render(d, listening=listening).tokens(tokenizer)
    return ids, weights


def pack(r: Source, tokenizer: Tokenizer, length: int, progress: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One row: dialogues end to end, each starting at a multiple of 128."""
    tokens = np.full(length, PAD, np.int16)
    start = np.zeros(length, np.int16)
    weight = np.zeros(length, np.float16)
    listening = LISTENING if progress < LISTEN_UNTIL else LISTENING_LATER
    at = 0
    while length - at >= MIN_ROOM:
        room = length - at
        for _ in range(8):
            ids, weights = fitted(sample(r, room, progress), tokenizer, room, listening)
            if len(ids) <= room:
                break
        else:
            break
        end = at + len(ids)
        tokens[at:end], weight[at:end] = ids, weights
        until = min(length, -(-end // ALIGN) * ALIGN)
        start[at:until] = at
        at = until
    start[at:] = at if at < length else start[at:]
    return tokens, start, weight


def batch(seed: int, tokenizer: Tokenizer, rows: int, length: int, progress: float) -> Batch:
    """A batch that depends on nothing but its arguments."""
    parts = [pack(Source(seed * 4096 + i), tokenizer, length, progress) for i in range(rows)]
    return Batch(*(np.stack(column) for column in zip(*parts)))


Job = tuple[int, int, int, float]  # Seed, rows, length, progress.


def _work(tokenizer: Tokenizer, jobs, results) -> None:
    for seed, *shape in iter(jobs.get, None):
        try:
            results.put((seed, batch(seed, tokenizer, *shape)))
        except Exception as error:  # The trainer must learn of it: it waits for this batch.
            results.put((seed, error))


class Stream:
    """Batches made by worker processes.

    Build it before CUDA starts: the workers are forks. Without workers the batches are made as they are asked for.
    """

    def __init__(self, workers: int, ahead: int = 96):
        self.ahead = ahead
        self.tokenizer = Tokenizer()
        context = mp.get_context("fork")
        self.jobs, self.results = context.Queue(), context.Queue()
        arguments = (self.tokenizer, self.jobs, self.results)
        self.pool = [context.Process(target=_work, args=arguments, daemon=True) for _ in range(workers)]
        for process in self.pool:
            process.start()

    def batches(self, jobs: Iterable[Job]) -> Iterator[Batch]:
        """In the order of `jobs`, which are taken `ahead` of what is yielded."""
        jobs = iter(jobs)
        if not self.pool:
            for job in jobs:
                yield batch(job[0], self.tokenizer, *job[1:])
            return
        waiting: dict[int, Batch] = {}
        order: deque[int] = deque()

        def ask() -> None:
            if job := next(jobs, None):
                order.append(job[0])
                self.jobs.put(job)

        for _ in range(self.ahead):
            ask()
        while order:
            seed = order.popleft()
            while seed not in waiting:
                done, made = self.results.get()
                if isinstance(made, Exception):
                    raise made
                waiting[done] = made
            ask()
            yield waiting.pop(seed)
        for process in self.pool:
            process.terminate()


def cases(skill: str, count: int, seed: int = 0) -> list[Dialogue]:
    """Held-out test cases of one skill, half of them with thinking."""
    makers = {
        "arithmetic": numbers.case, "copy": recall.copy_case, "talk": chat.talk_case, "story": chat.story_case,
        "outside": chat.outside_case, "tools": tools.case, "tools_unseen": lambda r: tools.case(r, unseen=True),
        "results": tools.result_case, "agent": agent.case, "agent_unseen": lambda r: agent.case(r, unseen=True),
        "occurrences": numbers.occurrences_case,
        "recall_1000": lambda r: recall.case(r, 1000), "recall_4000": lambda r: recall.case(r, 4000),
    }
    found = []
    for i in range(count):
        r = Source(zlib.crc32(f"{skill}/{seed}/{i}".encode()), test=True)
        d = makers[skill](r)
        d.skill = skill
        d.thinking = i % 2 == 1
        d.effort = r.choices(["high", "low", "max"], [6, 2, 2])[0] if d.thinking else "low"
        if not d.expect:
            d.expect = {"rule": "exact", "answer": d.turns[-1].said(d.thinking)}
        found.append(d)
    return found
