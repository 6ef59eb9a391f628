"""Shape of keid-tiny: every number of the architecture in one place."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Config:
    """A DeepSeek V4 model. Names follow the official `config.json` where it has one."""

    name: str = "keid-tiny"
    vocab: int = 3136
    hidden: int = 256
    ratios: tuple[int, ...] = (0, 0, 4, 128, 4, 4)
    heads: int = 8
    head_dim: int = 192
    rope_dim: int = 64
    q_lora: int = 96
    o_groups: int = 4
    o_lora: int = 48
    experts: int = 8
    experts_per_token: int = 2
    expert_dim: int = 256
    hash_layers: int = 2
    window: int = 128
    index_heads: int = 8
    index_dim: int = 128
    index_top_k: int = 64
    streams: int = 4
    sinkhorn: int = 20
    hc_eps: float = 1e-6
    rms_eps: float = 1e-6
    route_scale: float = 1.5
    swiglu_limit: float = 10.0
    rope_theta: float = 10_000.0
    compress_theta: float = 160_000.0
    yarn_factor: float = 4.0
    yarn_original: int = 2048
    yarn_beta_fast: float = 32.0
    yarn_beta_slow: float = 1.0
    context: int = 8192

    @property
    def layers(self) -> int:
        """Main layers, the MTP block not counted."""
        return len(self.ratios)
