"""U-Nets of every kind of pools and mixers, small and in float64."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ssmbio.backbones import UNet
from ssmbio.mixers import S4, S4D, Mamba

D_MODEL = 6
S4D_4, S4_4, MAMBA_4 = partial(S4D, d_state=4), partial(S4, d_state=4), partial(Mamba, d_state=4)
CAUSAL = {
    "s4d": {"mixer": S4D_4},
    "mamba": {"mixer": MAMBA_4},
    "s4": {"mixer": S4_4},
    "mixture": {"mixers": {"outer": S4D_4, "middle": S4_4, "centre": MAMBA_4}},
    "one_pool": {"mixers": {"outer": S4D_4, "centre": MAMBA_4}, "pool": [4]},
    "three_pools": {"mixer": S4D_4, "pool": [4, 4, 2]},
    "odd_pools": {"mixer": S4D_4, "pool": [3, 2], "expand": 3, "ff": 0},
}


def make(unet: bool, settings: dict, seed: int = 0) -> UNet:
    torch.manual_seed(seed)
    net = UNet(D_MODEL, 2, unet=unet, **settings).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.1 * torch.randn_like(parameter)  # biases at 0 and gains at 1 hide mistakes
    return net


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)
