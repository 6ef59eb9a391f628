"""Trains keid-tiny on one GPU. `python train.py --out DIR` resumes from DIR/state.pt if it is there.

Phases, as fractions of the run: the indexer first learns beside dense attention, then selection bites (DENSE_UNTIL);
routed experts are rounded to MXFP4 from QUANTISE_FROM on; long contexts come in from LONG_FROM on.
The run may be stopped and continued (SIGSTOP, SIGCONT): its schedule does not see pauses.
"""

import argparse
import json
import subprocess
import sys
import time
from collections import deque
from itertools import count
from pathlib import Path
from typing import Iterator, TextIO

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from config import Config
from data import mix
from model import Model, Output
from optim import Muon, split_parameters
from score import exact_scores
from tokenizer import Tokenizer

DENSE_UNTIL, QUANTISE_FROM, LONG_FROM = 0.40, 0.50, 0.15
SHORT, LONG = (32, 2048), (14, 4608)
LONG_EVERY = 6
DRAFT_WEIGHT, INDEX_WEIGHT = 0.3, 1.0
DRAFTED = 4  # The MTP block trains on one in four sequences: it learns sooner than the main model, and a step takes less.
MATRIX_RATE, BIAS_RATE = 0.02, 1e-3
WARM_UP, HOLD = 100, 0.35
LOG_EVERY, SAVE_EVERY, PAUSE = 20, 120.0, 5.0  # Steps; seconds of training; seconds.
QUEUE = 4  # How many steps the host may be ahead of the device.
SEED = 4


class Clock:
    """Seconds spent training. A gap of more than PAUSE seconds between two ticks is compiling, the first scoring or a stopped process,
    and does not count. (`Trainer.wait` keeps the gaps of a running process near the length of a step.)
    """

    def __init__(self):
        self.active = self.paused = 0.0
        self.last = time.monotonic()

    def tick(self) -> None:
        now = time.monotonic()
        gap, self.last = now - self.last, now
        if gap > PAUSE:
            self.paused += gap
        else:
            self.active += gap


class Schedule:
    """How far the run is, from 0 to 1: by steps, or by seconds of training, which fits it to any machine."""

    def __init__(self, steps: int, seconds: float | None, done: float = 0.0):
        self.steps, self.seconds, self.done, self.clock = steps, seconds, done, Clock()

    def progress(self, step: int) -> float:
        if self.seconds is None:
            return step / self.steps
        return min(1.0, self.done + self.clock.active / self.seconds)

    def jobs(self, first: int, stop: int | None) -> Iterator[mix.Job]:
        """Batches to make, decided as they are asked for."""
        for step in count(first) if stop is None else range(first, stop):
            progress = self.progress(step)
            if progress >= 1:
                return
            long = progress >= LONG_FROM and step % LONG_EVERY == 0
            yield SEED * 1_000_000 + step, *(LONG if long else SHORT), progress


def rate(progress: float) -> float:
    """Learning-rate factor: hold, then fall linearly to two percent."""
    return 0.02 + 0.98 * min(1.0, (1 - progress) / (1 - HOLD))


def token_loss(hidden: Tensor, head: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
    """Weighted cross entropy of the shared head."""
    logits = F.linear(hidden.to(torch.bfloat16 if hidden.is_cuda else hidden.dtype), head.to(
        torch.bfloat16 if hidden.is_cuda else head.dtype)).float()
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    return (losses * weight.flatten()).sum() / weight.sum().clamp_min(1.0)


class Trainer:
    """The model, its optimisers and what a checkpoint holds."""

    def __init__(self, device: str, compiled: bool):
        torch.manual_seed(SEED)
        torch.backends.cuda.matmul.allow_tf32 = True
        self.device = device
        self.model = Model(Config()).to(device)
        muon, adam = split_parameters(self.model)
        self.muon = Muon(muon)
        groups = [{"params": ps, "lr": 0.0, "rate": rate} for rate, ps in adam.items()]
        self.adam = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0, fused=device == "cuda")
        self.loss = token_loss
        self.queued: deque[torch.cuda.Event] = deque()
        self.flags = [torch.tensor(on, device=device) for on in (False, True)]
        if compiled:
            self.compile()

    def compile(self) -> None:
        """Compile layer by layer: layers of one kind share their code, so start-up stays short."""
        torch._dynamo.config.recompile_limit = 64
        torch._dynamo.config.accumulated_recompile_limit = 512
        for block in [*self.model.layers, self.model.mtp]:
            block.compile(dynamic=False)
            block.ffn.weights = torch.compile(block.ffn.weights, dynamic=False)
        self.loss = torch.compile(token_loss, dynamic=False)
        self.model.finish = torch.compile(self.model.finish, dynamic=False)
        self.model.mtp.enter = torch.compile(self.model.mtp.enter, dynamic=False)

    def sent(self, array: np.ndarray) -> Tensor:
        """The array on the device; page-locked on the way, so that nothing waits for the step before."""
        host = torch.from_numpy(array)
        return host.pin_memory().to(self.device, non_blocking=True) if self.device == "cuda" else host

    def forward(self, batch: mix.Batch, progress: float) -> tuple[Output, Tensor]:
        tokens, start = self.sent(batch.tokens).long(), self.sent(batch.start).long()
        dense = self.flags[progress < DENSE_UNTIL]
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            return self.model(tokens, start, quantise=progress >= QUANTISE_FROM, dense=dense,
                              drafted_rows=max(1, len(tokens) // DRAFTED)), tokens

    def losses(self, batch: mix.Batch, progress: float) -> tuple[Tensor, Tensor, Output]:
        """-> (next-token loss, draft loss, output)."""
        out, tokens = self.forward(batch, progress)
        weight = self.sent(batch.weight).float()
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            first = self.loss(out.hidden, self.model.head.weight, F.pad(tokens[:, 1:], (0, 1)), F.pad(weight[:, 1:], (0, 1)))
            n = len(out.draft)
            second = self.loss(out.draft, self.model.head.weight, F.pad(tokens[:n, 2:], (0, 2)), F.pad(weight[:n, 2:], (0, 2)))
        return first, second, out

    def step(self, batch: mix.Batch, progress: float, factor: float) -> Tensor:
        """One update; returns [next-token, draft, indexer] losses on the device."""
        first, second, out = self.losses(batch, progress)
        (first + DRAFT_WEIGHT * second + INDEX_WEIGHT * out.index_loss).backward()
        self.muon.step(MATRIX_RATE * factor)
        for group in self.adam.param_groups:
            group["lr"] = group["rate"] * factor
        torch.nn.utils.clip_grad_norm_([p for group in self.adam.param_groups for p in group["params"]], 1.0)
        self.adam.step()
        self.model.zero_grad(set_to_none=True)
        self.balance(out.loads, factor)
        self.wait()
        return torch.stack([first.detach(), second.detach(), out.index_loss.detach()])

    def wait(self) -> None:
        """Until the device is at most QUEUE steps behind."""
        if self.device != "cuda":
            return
        event = torch.cuda.Event()
        event.record()
        self.queued.append(event)
        if len(self.queued) > QUEUE:
            self.queued.popleft().synchronize()

    @torch.no_grad()
    def balance(self, loads: list[Tensor], factor: float) -> None:
        """Loss-free balancing: experts with less than their share get a larger selection bias."""
        for block, load in zip([*self.model.layers, self.model.mtp], loads):
            if not block.ffn.hashed:
                block.ffn.bias += BIAS_RATE * factor * torch.sign(load.mean() - load)

    def save(self, path: Path, step: int, progress: float) -> None:
        state = {"step": step, "progress": progress, "model": self.model.state_dict(), "adam": self.adam.state_dict(), "muon": self.muon.state}
        torch.save(state, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").rename(path)

    def load(self, path: Path) -> tuple[int, float]:
        """-> (steps done, progress)."""
        state = torch.load(path, map_location=self.device)
        self.model.load_state_dict(state["model"])
        self.adam.load_state_dict(state["adam"])
        self.muon.state = state["muon"]
        return state["step"], state["progress"]


def warm_up(shape: tuple[int, int]) -> None:
    """Compile for a shape into the cache that all processes share. To be run beside the training, which needs that shape later."""
    trainer = Trainer("cuda", True)
    trainer.step(mix.batch(SEED, Tokenizer(), *shape, 0.0), 0.0, 0.0)


def save_half(model: Model, folder: Path, step: int, progress: float, parts: int = 3) -> None:
    """Weights in half precision over several files small enough to carry, and `at.json`, which says how far they are."""
    items = [(k, v.half() if v.is_floating_point() else v) for k, v in model.state_dict().items()]
    shares: list[dict] = [{} for _ in range(parts)]
    sizes = [0] * parts
    for key, value in sorted(items, key=lambda item: -item[1].numel()):
        least = sizes.index(min(sizes))
        shares[least][key] = value.cpu()
        sizes[least] += value.numel()
    for i, share in enumerate(shares):
        torch.save(share, folder / f"half{i}.tmp")
    (folder / "at.tmp").write_text(json.dumps({"step": step, "progress": progress}))
    # All at once, so that a copy made meanwhile has parts of one step.
    for i in range(parts):
        (folder / f"half{i}.tmp").rename(folder / f"half{i}.pt")
    (folder / "at.tmp").rename(folder / "at.json")


def load_half(model: Model, folder: Path) -> tuple[int, float]:
    """What `save_half` wrote -> (steps done, progress)."""
    state = {}
    for part in sorted(folder.glob("half*.pt")):
        state.update(torch.load(part, map_location="cpu"))
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    at = folder / "at.json"
    found = json.loads(at.read_text()) if at.exists() else {"step": 0, "progress": 0.0}
    return found["step"], found["progress"]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--steps", type=int, default=12000)
    parser.add_argument("--seconds", type=float, help="end after so many seconds of training instead of so many steps")
    parser.add_argument("--stop", type=int, help="stop early, at this step of the schedule")
    parser.add_argument("--init", type=Path, help="go on from the half-precision weights in this folder, where its at.json says")
    parser.add_argument("--workers", type=int, default=14)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--eager", action="store_true", help="do not compile")
    parser.add_argument("--evals", type=int, default=12, help="evaluations over the run")
    parser.add_argument("--warm-up", action="store_true", help="only compile for long rows; the training starts this beside itself")
    return parser.parse_args()


def main() -> None:
    args = parse()
    if args.warm_up:
        return warm_up(LONG)
    args.out.mkdir(parents=True, exist_ok=True)
    state = args.out / "state.pt"
    (args.out / "done").unlink(missing_ok=True)
    stream = mix.Stream(args.workers)
    schedule = Schedule(args.steps, args.seconds)
    compiled = not args.eager
    if compiled and args.device == "cuda":
        with (args.out / "warm-up.log").open("w") as log:
            subprocess.Popen([sys.executable, __file__, "--warm-up"], stdout=log, stderr=log)
    trainer = Trainer(args.device, compiled)
    first = 0
    if state.exists():
        first, schedule.done = trainer.load(state)
    elif args.init:
        first, schedule.done = load_half(trainer.model, args.init)
    with (args.out / "log.jsonl").open("a", buffering=1) as log:
        run(trainer, stream.batches(schedule.jobs(first, args.stop)), schedule, first, args, log)
    (args.out / "done").touch()


def run(trainer: Trainer, batches: Iterator[mix.Batch], schedule: Schedule, first: int, args: argparse.Namespace, log: TextIO) -> None:
    """Trains to the end of `batches`, then saves the weights and scores them."""
    clock, seen, step, saved = schedule.clock, 0, first - 1, 0.0

    def note(**record) -> None:
        times = {"active": round(clock.active, 1), "paused": round(clock.paused, 1)}
        if trainer.device == "cuda":
            times["gpu_gib"] = round(torch.cuda.max_memory_reserved() / 2**30, 1)
        log.write(json.dumps({"step": step, **record, "progress": round(schedule.progress(step + 1), 4), **times}) + "\n")

    def save() -> None:
        trainer.save(args.out / "state.pt", step + 1, schedule.progress(step + 1))
        save_half(trainer.model, args.out, step + 1, schedule.progress(step + 1))

    evaluated = int(schedule.progress(first) * args.evals)
    for batch in batches:
        clock.tick()
        progress = schedule.progress(step + 1)
        if progress >= 1:
            break
        step += 1
        warm = min(1.0, (step - first + 1) / WARM_UP)
        losses = trainer.step(batch, progress, warm * rate(progress))
        seen += batch.tokens.size
        if step % LOG_EVERY == 0:
            loss, draft, index = losses.tolist()
            note(loss=loss, draft=draft, index=index, length=batch.tokens.shape[1], tokens_per_second=round(seen / max(clock.active, 1.0)))
        # Not before long rows come in: scoring needs what the other process compiles for them.
        if progress >= LONG_FROM and evaluated < int(progress * args.evals) < args.evals:
            evaluated = int(progress * args.evals)
            note(scores=exact_scores(trainer, 48, progress, SHORT, LONG))
        if clock.active - saved >= SAVE_EVERY:
            saved = clock.active
            save()
    save()
    note(scores=exact_scores(trainer, 192, 1.0, SHORT, LONG))


if __name__ == "__main__":
    main()
