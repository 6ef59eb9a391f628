"""DeepSeek V4 in PyTorch, parallel in time, for training keid-tiny and for its golden logits.

Notation: B sequences, T positions, D hidden size, S streams, H heads, d head dim, N compressed rows.
Sequences may hold several documents; each starts at a multiple of 128, and `start[b, t]` is where the document
of position t begins. All RoPE is relative, so positions within the sequence serve as they are.
The mathematics is that of DeepSeek's release; `round_kv` and `round_index` switch its FP8 and FP4 simulation.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from config import Config
from numerics import fp4_blocks, fp8_blocks, hadamard, straight_through
from sinkhorn import sinkhorn

ALIGN = 128  # Documents start here, so that windows of both compressors never straddle two.
PROBE_EVERY = 5  # Every fifth query trains the indexer: prime to the windows of four, and enough.


def inverse_frequencies(c: Config, compressed: bool) -> Tensor:
    """Angles per position, [rope_dim / 2], float64; YaRN without magnitude scaling on compressed layers."""
    r = c.rope_dim
    theta = c.compress_theta if compressed else c.rope_theta
    f = theta ** (-torch.arange(0, r, 2, dtype=torch.float64) / r)
    if not compressed:
        return f

    def turns(rotations: float) -> float:
        return r * math.log(c.yarn_original / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low = max(math.floor(turns(c.yarn_beta_fast)), 0)
    high = min(math.ceil(turns(c.yarn_beta_slow)), r - 1)
    ramp = ((torch.arange(r // 2, dtype=torch.float64) - low) / max(high - low, 1e-3)).clamp(0, 1)
    return f * (1 - ramp) + f / c.yarn_factor * ramp


def rotate(x: Tensor, angles: tuple[Tensor, Tensor], inverse: bool = False) -> Tensor:
    """Interleaved RoPE on the last channels; `angles` = (cos, sin), broadcastable to x[..., rope_dim / 2]."""
    cos, sin = angles
    if inverse:
        sin = -sin
    r = 2 * cos.shape[-1]
    keep, tail = x[..., :-r], x[..., -r:].unflatten(-1, (-1, 2))
    a, b = tail[..., 0], tail[..., 1]
    turned = torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)
    return torch.cat([keep, turned.to(x.dtype)], -1)


def rms(x: Tensor, eps: float, weight: Tensor | None = None) -> Tensor:
    """x / sqrt(mean(x^2) + eps), in at least float32."""
    wide = x if x.dtype == torch.float64 else x.float()
    y = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return y if weight is None else y * weight


def linear(out: int, inp: int) -> nn.Linear:
    """A matrix without bias, initialised so that outputs keep the input's scale."""
    m = nn.Linear(inp, out, bias=False)
    nn.init.normal_(m.weight, std=inp**-0.5)
    return m


class Scale(nn.Module):
    """The weight of an RMS norm."""

    def __init__(self, n: int, value: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.full((n,), value))


@dataclass
class Masks:
    """What each position may see, shared by all layers.

    near [B, T/W, W, 2W]: raw rows of the previous and the own block of W positions;
    rows4 [B, T, T/4], rows128 [B, T, T/128]: closed compressed rows of the same document;
    first4 [B, T/4], first128: whether a compressor window opens its document.
    """

    near: Tensor
    rows4: Tensor
    rows128: Tensor
    first4: Tensor

    @classmethod
    def of(cls, start: Tensor, window: int) -> "Masks":
        b, t = start.shape
        at = torch.arange(t, device=start.device)
        query = at.view(1, -1, window, 1)
        key = torch.arange(2 * window, device=start.device).view(1, 1, 1, -1) - window
        key = key + at.view(1, -1, window, 1)[:, :, :1]
        first = start.view(b, -1, window, 1)
        near = (key <= query) & (query - key < window) & (key >= first)

        def closed(ratio: int) -> Tensor:
            opens = torch.arange(0, t, ratio, device=start.device)
            return (opens + ratio <= at[:, None] + 1) & (opens >= start[..., None])

        return cls(near, closed(4), closed(128), start[:, ::4] == at[::4])

    def first(self, rows: int | None) -> "Masks":
        """Those of the first sequences."""
        return Masks(self.near[:rows], self.rows4[:rows], self.rows128[:rows], self.first4[:rows])


class Compressor(nn.Module):
    """Gated pooling of `ratio` positions into one row; ratio 4 overlaps with the window before."""

    def __init__(self, c: Config, ratio: int, width: int):
        super().__init__()
        self.ratio, self.width, self.eps = ratio, width, c.rms_eps
        out = width * (2 if ratio == 4 else 1)
        self.wkv, self.wgate = linear(out, c.hidden), linear(out, c.hidden)
        self.ape = nn.Parameter(torch.randn(ratio, out) * 0.5)
        self.norm = Scale(width)

    def forward(self, x: Tensor, first: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        """x [B, T, D] -> rows [B, T/ratio, width], rotated to the position of their first token."""
        m, w = self.ratio, self.width
        kv = self.wkv(x).unflatten(1, (-1, m))
        gate = self.wgate(x).unflatten(1, (-1, m))
        gate = (gate if gate.dtype == torch.float64 else gate.float()) + self.ape
        if m == 4:
            past_kv = F.pad(kv[..., :w], (0, 0, 0, 0, 1, 0))[:, :-1]
            past_gate = F.pad(gate[..., :w], (0, 0, 0, 0, 1, 0))[:, :-1]
            past_gate = past_gate.masked_fill(first[..., None, None], -1e30)
            kv = torch.cat([past_kv, kv[..., w:]], 2)
            gate = torch.cat([past_gate, gate[..., w:]], 2)
        row = (gate.softmax(2) * kv).sum(2)
        cos, sin = angles
        return rotate(rms(row, self.eps, self.norm.weight), (cos[::m], sin[::m]))


class Indexer(nn.Module):
    """Scores compressed rows for each query. Its inputs are detached: only its own loss trains it."""

    def __init__(self, c: Config):
        super().__init__()
        self.heads, self.dim = c.index_heads, c.index_dim
        self.wq_b = linear(c.index_heads * c.index_dim, c.q_lora)
        self.weights_proj = linear(c.index_heads, c.hidden)
        self.compressor = Compressor(c, 4, c.index_dim)
        self.register_buffer("mix", hadamard(c.index_dim).float(), persistent=False)

    def rotated(self, x: Tensor, rounding: bool) -> Tensor:
        """Hadamard rotation and FP4 rounding of queries or keys [..., dim]."""
        if not rounding:
            return x
        x = x @ self.mix.to(x.dtype)
        return straight_through(x, fp4_blocks(x))

    def keys(self, x: Tensor, first: Tensor, angles, rounding: bool) -> Tensor:
        """x [B, T, D] -> [B, T/4, dim]."""
        return self.rotated(self.compressor(x, first, angles), rounding)

    def forward(self, x: Tensor, latent: Tensor, keys: Tensor, angles, rounding: bool) -> Tensor:
        """Queries x [B, Q, D], latent [B, Q, q_lora] with their angles; keys [B, N, dim] -> scores [B, Q, N]."""
        cos, sin = angles
        b, t, _ = x.shape
        q = self.wq_b(latent).unflatten(-1, (self.heads, self.dim))
        q = rotate(q if q.dtype == torch.float64 else q.float(), (cos[:, None], sin[:, None]))
        q = self.rotated(q, rounding)
        w = self.weights_proj(x) * (self.dim**-0.5 * self.heads**-0.5)
        hits = torch.matmul(q.reshape(b, t * self.heads, self.dim), keys.mT).relu()
        scores = (hits.view(b, t, self.heads, -1) * w[..., None]).sum(2)
        return scores if scores.dtype == torch.float64 else scores.float()


class Attention(nn.Module):
    """Shared-KV attention over the window, and over compressed rows where the layer has them."""

    def __init__(self, c: Config, ratio: int):
        super().__init__()
        self.c, self.ratio = c, ratio
        h, d = c.heads, c.head_dim
        self.wq_a, self.q_norm = linear(c.q_lora, c.hidden), Scale(c.q_lora)
        self.wq_b = linear(h * d, c.q_lora)
        self.wkv, self.kv_norm = linear(d, c.hidden), Scale(d)
        self.wo_a = linear(c.o_groups * c.o_lora, h * d // c.o_groups)
        self.wo_b = linear(c.hidden, c.o_groups * c.o_lora)
        nn.init.normal_(self.wo_b.weight, std=0.3 * (c.o_groups * c.o_lora) ** -0.5)
        self.attn_sink = nn.Parameter(torch.zeros(h))
        if ratio:
            self.compressor = Compressor(c, ratio, d)
        if ratio == 4:
            self.indexer = Indexer(c)

    def round_rows(self, rows: Tensor, on: bool) -> Tensor:
        """FP8 round trip of the channels that RoPE leaves alone."""
        if not on:
            return rows
        keep, tail = rows.split([self.c.head_dim - self.c.rope_dim, self.c.rope_dim], -1)
        return torch.cat([straight_through(keep, fp8_blocks(keep)), tail], -1)

    def forward(self, x: Tensor, masks: Masks, angles, rounding: tuple[bool, bool], dense: Tensor):
        """x [B, T, D] normed -> (output [B, T, D], indexer loss); `dense` (0-d bool) disables selection."""
        c = self.c
        b, t, _ = x.shape
        cos, sin = angles
        latent = rms(self.wq_a(x), c.rms_eps, self.q_norm.weight)
        q = rms(self.wq_b(latent).unflatten(-1, (c.heads, c.head_dim)), c.rms_eps)
        q = rotate(q, (cos[:, None], sin[:, None])) * c.head_dim**-0.5
        kv = rotate(rms(self.wkv(x), c.rms_eps, self.kv_norm.weight), angles)
        kv = self.round_rows(kv, rounding[0])
        work = q.dtype if q.dtype == torch.float64 or not x.is_cuda else torch.bfloat16
        q, kv = q.to(work), kv.to(work)

        blocks = kv.unflatten(1, (-1, c.window))
        near = torch.cat([F.pad(blocks, (0, 0, 0, 0, 1, 0))[:, :-1], blocks], 2)
        near_scores = (q.reshape(b, t // c.window, c.window * c.heads, c.head_dim) @ near.mT)
        near_scores = near_scores.unflatten(2, (c.window, c.heads))
        near_mass = self.exp(near_scores, masks.near[:, :, :, None])
        total = near_mass.sum(-1).flatten(1, 2)
        out = near_mass.to(work).flatten(2, 3) @ near
        out = out.reshape(b, t, c.heads, c.head_dim)

        loss = x.new_zeros(())
        if self.ratio:
            rows = self.round_rows(self.compressor(x, masks.first4, angles), rounding[0]).to(work)
            visible = masks.rows4 if self.ratio == 4 else masks.rows128
            scores = (q.reshape(b, t * c.heads, c.head_dim) @ rows.mT).unflatten(1, (t, c.heads))
            if self.ratio == 4:
                picks, loss = self.select(x, latent, masks, angles, rounding[1], dense, scores, total)
                visible = visible & picks
            mass = self.exp(scores, visible[:, :, None])
            total = total + mass.sum(-1)
            out = out + (mass.to(work).flatten(1, 2) @ rows).unflatten(1, (t, c.heads))

        sink = self.attn_sink.exp() if work == torch.float64 else self.attn_sink.float().exp()
        out = out / (total + sink)[..., None]
        out = rotate(out, (cos[:, None], sin[:, None]), inverse=True)
        # A batched product per group; autocast does not reach it, so it is cast by hand.
        grouped = out.reshape(b * t, c.o_groups, -1).transpose(0, 1).to(work)
        low = torch.bmm(grouped, self.wo_a.weight.to(grouped.dtype).unflatten(0, (c.o_groups, -1)).mT)
        return self.wo_b(low.transpose(0, 1).reshape(b, t, -1)), loss

    @staticmethod
    def exp(scores: Tensor, mask: Tensor) -> Tensor:
        """exp of masked scores. Both sides are RMS-normalised, so no running maximum is needed; 60 is far away."""
        wide = scores if scores.dtype == torch.float64 else scores.float()
        return torch.where(mask, wide.clamp(max=60.0).exp(), 0.0)

    def select(self, x, latent, masks, angles, rounding, dense, scores, near_total):
        """The indexer's choice [B, T, N] and its loss against this layer's own attention mass."""
        x, latent = x.detach(), latent.detach()
        keys = self.indexer.keys(x, masks.first4, angles, rounding)
        guess = self.indexer(x, latent, keys, angles, rounding).detach().masked_fill(~masks.rows4, -1e30)
        if not torch.is_grad_enabled():
            return chosen_rows(guess, self.c.index_top_k), x.new_zeros(())
        with torch.no_grad():
            # Half precision halves the work; ties at the threshold all pass, which does no harm while training.
            coarse = guess.clamp(-6e4, 6e4).half()
            top = coarse.topk(min(self.c.index_top_k, coarse.shape[-1]), -1, sorted=False)
            picks = (coarse >= top.values.amin(-1, keepdim=True)) | dense
        some = slice(None, None, PROBE_EVERY)
        with torch.no_grad():
            mass = self.exp(scores.detach()[:, some], masks.rows4[:, some, None])
            share = mass / (mass.sum(-1, keepdim=True) + near_total.detach()[:, some, :, None] + 1e-9)
            share = share.sum(2)
            weight = share.sum(-1)
            target = share / weight.clamp_min(1e-9)[..., None]
            weight = weight / self.c.heads + 0.05
            weight = weight * masks.rows4[:, some].any(-1)
        probe = self.indexer(x[:, some], latent[:, some], keys, (angles[0][some], angles[1][some]), rounding)
        log_guess = probe.masked_fill(~masks.rows4[:, some], -1e30).log_softmax(-1)
        entropy = torch.special.xlogy(target, target).sum(-1)
        divergence = entropy - (target * log_guess.clamp_min(-100.0)).sum(-1)
        return picks, (divergence * weight).sum() / weight.sum().clamp_min(1.0)


def chosen_rows(scores: Tensor, top_k: int) -> Tensor:
    """[..., N] -> mask of the top_k largest, ties to the lowest index."""
    order = torch.sort(scores, dim=-1, descending=True, stable=True).indices[..., :top_k]
    return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, order, True)


class Experts(nn.Module):
    """Hash- or score-routed experts beside one shared expert.

    At this size every expert is computed for every token and the unchosen ones get weight zero: one large matrix
    product is faster on a GPU than sorting tokens.
    """

    def __init__(self, c: Config, hashed: bool):
        super().__init__()
        self.c, self.hashed = c, hashed
        e, f, d = c.experts, c.expert_dim, c.hidden
        self.gate = linear(e, d)
        self.w1 = nn.Parameter(torch.randn(e, f, d) * d**-0.5)
        self.w3 = nn.Parameter(torch.randn(e, f, d) * d**-0.5)
        self.w2 = nn.Parameter(torch.randn(e, d, f) * 0.3 * f**-0.5)
        self.shared1, self.shared3, self.shared2 = linear(f, d), linear(f, d), linear(d, f)
        nn.init.normal_(self.shared2.weight, std=0.3 * f**-0.5)
        if hashed:
            self.register_buffer("tid2eid", balanced_table(c))
        else:
            self.register_buffer("bias", torch.zeros(e))

    def weights(self, quantise: bool, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        """Routed and shared experts side by side: w1, w3 [(E+1)F, D] and w2 [D, (E+1)F]."""
        w1, w3, w2 = self.w1, self.w3, self.w2
        if quantise:
            w1, w3, w2 = (straight_through(w, fp4_blocks(w)) for w in (w1, w3, w2))
        first = torch.cat([w1.flatten(0, 1), self.shared1.weight]).to(dtype)
        third = torch.cat([w3.flatten(0, 1), self.shared3.weight]).to(dtype)
        second = torch.cat([w2.transpose(0, 1).flatten(1), self.shared2.weight], 1).to(dtype)
        return first, third, second

    def route(self, x: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """x [n, D], tokens [n] -> expert weights [n, E] (zero where not chosen) and tokens per expert [E]."""
        with torch.autocast(x.device.type, enabled=False):
            logits = F.linear(x, self.gate.weight)
        scores = F.softplus(logits).sqrt()
        if self.hashed:
            chosen = self.tid2eid[tokens].long()
        else:
            chosen = (scores.detach() + self.bias).topk(self.c.experts_per_token, -1).indices
        picked = torch.zeros_like(scores).scatter(-1, chosen, 1.0)
        weights = scores * picked
        weights = weights / weights.sum(-1, keepdim=True) * self.c.route_scale
        return weights, picked.sum(0)

    def forward(self, x: Tensor, tokens: Tensor, weights: tuple[Tensor, Tensor, Tensor]):
        """x [B, T, D] normed -> (output [B, T, D], load [E])."""
        limit = self.c.swiglu_limit
        flat = x.flatten(0, 1)
        share, load = self.route(flat, tokens.flatten())
        w1, w3, w2 = weights
        low = flat.to(w1.dtype)
        gate, up = F.linear(low, w1), F.linear(low, w3)
        share = F.pad(share, (0, 1), value=1.0).repeat_interleave(self.c.expert_dim, -1)
        h = F.silu(gate.clamp(max=limit)) * up.clamp(-limit, limit) * share.to(gate.dtype)
        return F.linear(h, w2).view_as(x), load


def balanced_table(c: Config) -> Tensor:
    """Fixed token -> experts table [vocab, experts_per_token], each expert used equally often.

    Consecutive ids walk through all ordered pairs of two distinct experts, scrambled by a multiplier coprime to the
    vocabulary.
    """
    ids = (torch.arange(c.vocab) * 1_000_003) % c.vocab
    first = ids % c.experts
    hop = 1 + (ids // c.experts) % (c.experts - 1)
    return torch.stack([(first + j * hop) % c.experts for j in range(c.experts_per_token)], -1).int()


class HyperSite(nn.Module):
    """The mixing numbers of one hyper-connection site, from all streams of a token (model.md 4.1)."""

    def __init__(self, c: Config, outputs: int):
        super().__init__()
        self.c = c
        s = c.streams
        self.fn = nn.Parameter(torch.randn(outputs, s * c.hidden) * 0.02)
        base = torch.zeros(outputs)
        if outputs > s:
            base[2 * s :] = (torch.eye(s) * 3.0).flatten()
        self.base = nn.Parameter(base)
        self.scale = nn.Parameter(torch.full((3 if outputs > s else 1,), 0.5))

    def mixes(self, x: Tensor) -> Tensor:
        """Streams [B, T, S, D] -> [B, T, outputs], before scale and base."""
        z = x.flatten(-2)
        return F.linear(z, self.fn) * torch.rsqrt(z.square().mean(-1, keepdim=True) + self.c.rms_eps)

    def site(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """-> collapsed input [B, T, D], post [B, T, S], comb [B, T, S, S]."""
        s, eps = self.c.streams, self.c.hc_eps
        m = self.mixes(x)
        pre = torch.sigmoid(m[..., :s] * self.scale[0] + self.base[:s]) + eps
        post = 2 * torch.sigmoid(m[..., s : 2 * s] * self.scale[1] + self.base[s : 2 * s])
        logits = (m[..., 2 * s :] * self.scale[2] + self.base[2 * s :]).reshape(-1, s, s)
        comb = sinkhorn(logits, self.c.sinkhorn, eps).view(*x.shape[:2], s, s)
        return (pre[..., None] * x).sum(-2), post, comb

    def head(self, x: Tensor) -> Tensor:
        """Streams [B, T, S, D] -> [B, T, D]."""
        pre = torch.sigmoid(self.mixes(x) * self.scale[0] + self.base) + self.c.hc_eps
        return (pre[..., None] * x).sum(-2)


def expand(y: Tensor, x: Tensor, post: Tensor, comb: Tensor) -> Tensor:
    """New streams: post[k] y + sum_j comb[j, k] x[j], written out per stream so that it fuses into one pass."""
    streams = x.shape[-2]
    mixed = sum(comb[..., j, :, None] * x[..., j, None, :] for j in range(streams))
    return post[..., None] * y[..., None, :] + mixed


class Block(nn.Module):
    """One layer: attention and experts, each behind a hyper-connection site."""

    def __init__(self, c: Config, ratio: int, hashed: bool):
        super().__init__()
        self.c = c
        self.attn_norm, self.ffn_norm = Scale(c.hidden), Scale(c.hidden)
        outputs = (2 + c.streams) * c.streams
        self.hc_attn, self.hc_ffn = HyperSite(c, outputs), HyperSite(c, outputs)
        self.attn = Attention(c, ratio)
        self.ffn = Experts(c, hashed)

    def forward(self, x, tokens, masks, angles, experts, rounding, dense):
        """Streams [B, T, S, D] -> (streams, indexer loss, expert load)."""
        eps = self.c.rms_eps
        with torch.autocast(x.device.type, enabled=False):
            y, post, comb = self.hc_attn.site(x)
            y = rms(y, eps, self.attn_norm.weight)
        y, loss = self.attn(y, masks, angles, rounding, dense)
        with torch.autocast(x.device.type, enabled=False):
            x = expand(y.to(x.dtype), x, post, comb)
            y, post, comb = self.hc_ffn.site(x)
            y = rms(y, eps, self.ffn_norm.weight)
        y, load = self.ffn(y, tokens, experts)
        with torch.autocast(x.device.type, enabled=False):
            return expand(y.to(x.dtype), x, post, comb), loss, load


class Drafter(Block):
    """The MTP block: a score-routed window layer on the main model's streams and the next token."""

    def __init__(self, c: Config):
        super().__init__(c, 0, False)
        self.e_proj, self.h_proj = linear(c.hidden, c.hidden), linear(c.hidden, c.hidden)
        self.enorm, self.hnorm, self.norm = Scale(c.hidden), Scale(c.hidden), Scale(c.hidden)
        self.hc_head = HyperSite(c, c.streams)

    def enter(self, x: Tensor, embedded: Tensor) -> Tensor:
        """Streams at t and the embedding of token t+1 -> the block's input streams."""
        eps = self.c.rms_eps
        e = self.e_proj(rms(embedded, eps, self.enorm.weight))
        return (self.h_proj(rms(x, eps, self.hnorm.weight)) + e[..., None, :]).to(x.dtype)


@dataclass
class Output:
    """hidden [B, T, D], draft [B or less, T, D]: normed inputs of the shared head, for token t+1 and (given t+1) for t+2."""

    hidden: Tensor
    draft: Tensor | None
    index_loss: Tensor
    loads: list[Tensor]


class Model(nn.Module):
    """keid-tiny: main layers and one MTP block."""

    def __init__(self, c: Config):
        super().__init__()
        self.c = c
        self.embed = nn.Embedding(c.vocab, c.hidden)
        nn.init.normal_(self.embed.weight, std=1.0)
        self.layers = nn.ModuleList(Block(c, r, i < c.hash_layers) for i, r in enumerate(c.ratios))
        self.norm = Scale(c.hidden)
        self.hc_head = HyperSite(c, c.streams)
        self.head = linear(c.vocab, c.hidden)
        self.mtp = Drafter(c)
        self.turned: dict[tuple, dict[bool, tuple[Tensor, Tensor]]] = {}

    def angles(self, t: int, device, dtype) -> dict[bool, tuple[Tensor, Tensor]]:
        """(cos, sin) [T, rope_dim / 2] for plain and compressed layers; kept, as making them anew waits for the device."""
        if (t, device, dtype) not in self.turned:
            at = torch.arange(t, dtype=torch.float64, device=device)[:, None]
            tables = {}
            for compressed in (False, True):
                phase = at * inverse_frequencies(self.c, compressed).to(device)
                tables[compressed] = (phase.cos().to(dtype), phase.sin().to(dtype))
            self.turned[t, device, dtype] = tables
        return self.turned[t, device, dtype]

    def forward(self, tokens: Tensor, start: Tensor, *, quantise=False, rounding=(True, True), dense=None,
                draft=True, drafted_rows: int | None = None) -> Output:
        """tokens, start [B, T] with T a multiple of 128. The MTP block reads the first `drafted_rows` sequences, else all."""
        device, wide = tokens.device, self.norm.weight.dtype
        work = torch.bfloat16 if tokens.is_cuda else wide
        dense = torch.zeros((), dtype=torch.bool, device=device) if dense is None else dense
        masks = Masks.of(start, self.c.window)
        angles = self.angles(tokens.shape[1], device, wide)
        embedded = self.embed(tokens)
        x = embedded[..., None, :].expand(-1, -1, self.c.streams, -1).contiguous()
        losses, loads = [], []
        for layer in self.layers:
            experts = layer.ffn.weights(quantise, work)
            x, loss, load = layer(x, tokens, masks, angles[layer.attn.ratio != 0], experts, rounding, dense)
            losses.append(loss)
            loads.append(load)
        hidden = self.finish(x, self.hc_head, self.norm)
        drafted = None
        if draft:
            n = drafted_rows
            drafted, load = self.draft(x[:n], tokens[:n], embedded[:n], masks.first(n), angles[False], quantise, work, rounding, dense)
            loads.append(load)
        return Output(hidden, drafted, sum(losses), loads)

    def draft(self, x, tokens, embedded, masks, angles, quantise, work, rounding, dense):
        """The MTP block over all positions; position t reads token t+1 (the last one reads padding)."""
        following = F.pad(tokens[:, 1:], (0, 1))
        ahead = F.pad(embedded[:, 1:], (0, 0, 0, 1))
        y = self.mtp.enter(x, ahead)
        experts = self.mtp.ffn.weights(quantise, work)
        y, _, load = self.mtp(y, following, masks, angles, experts, rounding, dense)
        return self.finish(y, self.mtp.hc_head, self.mtp.norm), load

    def finish(self, x: Tensor, site: HyperSite, norm: Scale) -> Tensor:
        """Streams [B, T, S, D] -> the shared head's input [B, T, D]."""
        with torch.autocast(x.device.type, enabled=False):
            return rms(site.head(x), self.c.rms_eps, norm.weight)
