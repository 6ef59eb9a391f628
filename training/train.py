"""Trains keid-tiny on one GPU. `python train.py --out DIR` resumes from DIR/state.pt if it is there.

Phases, as fractions of the run: the indexer first learns beside dense attention, then selection bites (DENSE_UNTIL);
routed experts are rounded to MXFP4 from QUANTISE_FROM on; long contexts come in from LONG_FROM on.
"""

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from config import Config
from data import mix
from model import Model, Output
from optim import Muon, split_parameters
from score import exact_scores
from tokenizer import Tokenizer

DENSE_UNTIL, QUANTISE_FROM, LONG_FROM = 0.30, 0.50, 0.15
SHORT, LONG = (32, 2048), (14, 4608)
LONG_EVERY = 5
DRAFT_WEIGHT, INDEX_WEIGHT = 0.3, 1.0
MATRIX_RATE, BIAS_RATE = 0.02, 1e-3
WARM_UP, HOLD = 100, 0.35
SEED = 4


def plan(steps: int) -> list[tuple[int, int, int, float]]:
    """(seed, rows, length, progress) of every batch."""
    jobs = []
    for i in range(steps):
        progress = i / steps
        long = progress >= LONG_FROM and i % LONG_EVERY == 0
        jobs.append((SEED * 1_000_000 + i, *(LONG if long else SHORT), progress))
    return jobs


def rate(step: int, steps: int) -> float:
    """Learning-rate factor: hold, then fall linearly to two percent."""
    fall = (steps - step) / (steps * (1 - HOLD))
    return 0.02 + 0.98 * min(1.0, fall)


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

    def forward(self, batch: mix.Batch, progress: float) -> tuple[Output, Tensor]:
        tokens = torch.from_numpy(batch.tokens).to(self.device, non_blocking=True).long()
        start = torch.from_numpy(batch.start).to(self.device, non_blocking=True).long()
        dense = torch.tensor(progress < DENSE_UNTIL, device=self.device)
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            return self.model(tokens, start, quantise=progress >= QUANTISE_FROM, dense=dense), tokens

    def losses(self, batch: mix.Batch, progress: float) -> tuple[Tensor, Tensor, Output]:
        """-> (next-token loss, draft loss, output)."""
        out, tokens = self.forward(batch, progress)
        weight = torch.from_numpy(batch.weight).to(self.device, non_blocking=True).float()
        with torch.autocast(self.device, torch.bfloat16, enabled=self.device == "cuda"):
            first = self.loss(out.hidden, self.model.head.weight, F.pad(tokens[:, 1:], (0, 1)), F.pad(weight[:, 1:], (0, 1)))
            second = self.loss(out.draft, self.model.head.weight, F.pad(tokens[:, 2:], (0, 2)), F.pad(weight[:, 2:], (0, 2)))
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
        return torch.stack([first.detach(), second.detach(), out.index_loss.detach()])

    @torch.no_grad()
    def balance(self, loads: list[Tensor], factor: float) -> None:
        """Loss-free balancing: experts with less than their share get a larger selection bias."""
        for block, load in zip([*self.model.layers, self.model.mtp], loads):
            if not block.ffn.hashed:
                block.ffn.bias += BIAS_RATE * factor * torch.sign(load.mean() - load)

    def save(self, path: Path, step: int) -> None:
        state = {"step": step, "model": self.model.state_dict(), "adam": self.adam.state_dict(), "muon": self.muon.state}
        torch.save(state, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").rename(path)
        path.with_name("step").write_text(str(step))

    def load(self, path: Path) -> None:
        state = torch.load(path, map_location=self.device)
        self.model.load_state_dict(state["model"])
        self.adam.load_state_dict(state["adam"])
        self.muon.state = state["muon"]


def measure(trainer: Trainer) -> tuple[float, float]:
    """Seconds of a short and of a long step, compiled and warm; the trainer is as new afterwards."""
    initial = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    tokenizer, found = Tokenizer(), []
    for shape in (SHORT, LONG):
        batch = mix.batch(SEED, tokenizer, *shape, 0.0)
        for progress in (0.0, QUANTISE_FROM, QUANTISE_FROM):
            trainer.step(batch, progress, 1.0).tolist()
        began = time.time()
        for _ in range(4):
            trainer.step(batch, QUANTISE_FROM, 1.0)
        trainer.step(batch, QUANTISE_FROM, 1.0).tolist()
        found.append((time.time() - began) / 5)
    trainer.model.load_state_dict(initial)
    trainer.adam.state.clear()
    for buffer in trainer.muon.state.values():
        buffer.zero_()
    return found[0], found[1]


def steps_within(seconds: float, short: float, long: float) -> int:
    """How many steps of the schedule fit."""
    mean = short + (1 - LONG_FROM) / LONG_EVERY * (long - short)
    return int(seconds / mean)


def save_half(model: Model, folder: Path, parts: int = 3) -> None:
    """Weights in half precision over several files small enough to carry."""
    items = [(k, v.half() if v.is_floating_point() else v) for k, v in model.state_dict().items()]
    shares: list[dict] = [{} for _ in range(parts)]
    sizes = [0] * parts
    for key, value in sorted(items, key=lambda item: -item[1].numel()):
        least = sizes.index(min(sizes))
        shares[least][key] = value.cpu()
        sizes[least] += value.numel()
    for i, share in enumerate(shares):
        torch.save(share, folder / f"half{i}.pt")


def load_half(model: Model, folder: Path) -> None:
    """What `save_half` wrote."""
    state = {}
    for part in sorted(folder.glob("half*.pt")):
        state.update(torch.load(part, map_location="cpu"))
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument("--steps", type=int, default=10000)
    parser.add_argument("--seconds", type=float, help="choose the steps that this GPU does in so many seconds")
    parser.add_argument("--init", type=Path, help="start from the half-precision weights in this folder")
    parser.add_argument("--first", type=int, default=0, help="enter the schedule at this step; for use with --init")
    parser.add_argument("--stop", type=int, help="stop after this many steps of the schedule")
    parser.add_argument("--workers", type=int, default=14)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--eager", action="store_true", help="do not compile")
    parser.add_argument("--evals", type=int, default=8, help="evaluations over the run")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    state, mark = args.out / "state.pt", args.out / "step"
    first = int(mark.read_text()) if mark.exists() else args.first
    last = min(args.steps, args.stop or args.steps)
    stream = mix.Stream(args.workers)
    trainer = Trainer(args.device, not args.eager)
    log = (args.out / "log.jsonl").open("a", buffering=1)
    if mark.exists():
        trainer.load(state)
    elif args.init:
        load_half(trainer.model, args.init)
    elif args.seconds:
        pace = measure(trainer)
        args.steps = last = steps_within(args.seconds, *pace)
        log.write(json.dumps({"steps": args.steps, "seconds_per_step": pace}) + "\n")
    began, seen = time.time(), 0
    every = max(1, args.steps // args.evals)
    for step, batch in enumerate(stream.batches(plan(args.steps)[first:last]), first):
        progress = step / args.steps
        warm = min(1.0, (step - first + 1) / WARM_UP)
        losses = trainer.step(batch, progress, warm * rate(step, args.steps))
        seen += batch.tokens.size
        if step % 20 == 0:
            main_loss, draft, index = losses.tolist()
            speed = seen / (time.time() - began)
            log.write(json.dumps({"step": step, "loss": main_loss, "draft": draft, "index": index, "length": batch.tokens.shape[1],
                                  "tokens_per_second": round(speed), "seconds": round(time.time() - began, 1)}) + "\n")
        if (step + 1) % every == 0 or step + 1 == last:
            scores = exact_scores(trainer, 64 if step + 1 < args.steps else 192, progress, SHORT, LONG)
            log.write(json.dumps({"step": step + 1, "scores": scores, "seconds": round(time.time() - began, 1)}) + "\n")
            trainer.save(state, step + 1)
            save_half(trainer.model, args.out)
    trainer.save(state, last)
    save_half(trainer.model, args.out)
    (args.out / "done").touch()


if __name__ == "__main__":
    main()
