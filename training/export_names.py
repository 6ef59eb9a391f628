"""Weight names: this package's modules <-> DeepSeek's official tensors."""

import re

import numpy as np

from config import Config

ROUTED = re.compile(r"(.*\.ffn)\.(w[123])$")
SHARED = re.compile(r"(.*\.ffn)\.shared([123])\.weight$")
SITE = re.compile(r"(.*?)hc_(attn|ffn|head)\.(fn|base|scale)$")


def to_official(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Module names -> official names; routed experts stay stacked as `ffn.experts.w1` [E, out, in]."""
    official = {}
    for name, value in state.items():
        if name.startswith("mtp."):
            name = "mtp.0." + name[len("mtp."):]
        if match := ROUTED.match(name):
            name = f"{match[1]}.experts.{match[2]}"
        elif match := SHARED.match(name):
            name = f"{match[1]}.shared_experts.w{match[2]}.weight"
        elif match := SITE.match(name):
            name = f"{match[1]}hc_{match[2]}_{match[3]}"
        elif name.endswith("ffn.bias"):
            name = name[: -len("bias")] + "gate.bias"
        elif name.endswith("ffn.tid2eid"):
            name = name[: -len("tid2eid")] + "gate.tid2eid"
        official[name] = value
    return official


def from_official(c: Config, official: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The inverse, also accepting experts as separate `ffn.experts.E.w1.weight` tensors."""
    state = {}
    for name, value in official.items():
        if ".ffn.experts." in name and not name.endswith((".w1", ".w2", ".w3")):
            prefix, rest = name.split(".ffn.experts.")
            index, matrix, _ = rest.split(".")
            if index == "0":
                parts = [official[f"{prefix}.ffn.experts.{e}.{matrix}.weight"] for e in range(c.experts)]
                state[f"{prefix}.ffn.{matrix}"] = np.stack(parts)
            continue
        name = name.replace(".ffn.experts.", ".ffn.").replace("gate.bias", "bias").replace("gate.tid2eid", "tid2eid")
        name = re.sub(r"shared_experts\.w([123])", r"shared\1", name)
        name = re.sub(r"hc_(attn|ffn|head)_(fn|base|scale)", r"hc_\1.\2", name)
        state[name] = value
    return {("mtp." + k[len("mtp.0."):] if k.startswith("mtp.0.") else k): v for k, v in state.items()}
