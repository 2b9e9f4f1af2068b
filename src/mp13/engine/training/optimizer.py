"""AdamW (Loshchilov & Hutter 2019) over the adapter's flat tensor, and its state on disk, in safetensors."""

import math
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from mp13.engine.training.config import TrainConfig
from mp13.engine.training.peers import Peers
from mp13.errors import TrainingError

_STATE = ("exp_avg", "exp_avg_sq", "step")  # torch's names


class Optimizer:
    """`flat` has its gradient."""

    def __init__(self, flat: nn.Parameter, config: TrainConfig) -> None:
        self._flat, self._config = flat, config
        self._adamw = torch.optim.AdamW(
            [flat], lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps,
            weight_decay=config.weight_decay, fused=True,
        )  # fmt: skip

    def step(self, lr: float) -> float:
        """Clip and apply the gradient, and set it to 0. Returns its length before; if that is not finite, nothing has
        been applied."""
        longest = math.inf if self._config.max_grad_norm is None else self._config.max_grad_norm
        norm = float(nn.utils.clip_grad_norm_([self._flat], longest))
        if math.isfinite(norm):
            self._adamw.param_groups[0]["lr"] = lr
            self._adamw.step()
        self._grad.zero_()
        return norm

    def add_up_gradient(self, peers: Peers) -> None:
        peers.add_up(self._grad)

    def forget_gradient(self) -> None:
        self._grad.zero_()

    def save(self, path: Path) -> None:
        """Raises OSError."""
        state = self._adamw.state[self._flat]
        kept = {name: state[name].cpu() for name in _STATE} if state else {}
        save_file(kept or {"step": torch.zeros(())}, path)

    def load(self, path: Path) -> None:
        """Raises TrainingError."""
        try:
            found = load_file(path)
            if float(found["step"]) == 0:
                return
            if {found[name].shape for name in _STATE[:2]} != {self._flat.shape}:
                raise ValueError("it is of another adapter")
        except Exception as error:  # safetensors has errors of its own
            raise TrainingError(f"{path} cannot be read ({error}); go on from another checkpoint") from None
        self._adamw.state[self._flat] = {name: found[name].to(self._flat.device) for name in _STATE}

    @property
    def _grad(self) -> torch.Tensor:
        assert self._flat.grad is not None
        return self._flat.grad
