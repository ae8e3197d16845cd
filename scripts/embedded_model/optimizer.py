"""Muon for the matrices, AdamW for the rest, and the course of the learning rate.

Tensor suffixes: RC matrix rows and columns, N matrices of one shape.
"""

from collections.abc import Callable

import torch
from transformers import LlamaForCausalLM

from embedded_model.rows import BATCH_TOKENS

PLANS = ((0, 9_000_000), (381, 5_000_000), (610, 8_000_000))
"""(first step, planned tokens): a step's learning rate follows the last plan begun, which ends at zero."""
WARMUP_STEPS = 20
DECAY_SHARE = 0.45
MATRIX_LEARNING_RATE = 0.02
OTHER_LEARNING_RATE = 4e-3
MATRIX_WEIGHT_DECAY = 0.05


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised by five Newton-Schulz steps (Jordan et al., 2024), one shape at a time.

    `torch.optim.Muon` does the same one matrix at a time and always in bfloat16, which is slow on most CPUs.
    """

    def __init__(self, matrices: list[torch.nn.Parameter], learning_rate: float, dtype: torch.dtype) -> None:
        shapes = sorted({tuple(matrix.shape) for matrix in matrices})
        groups = [{"params": [matrix for matrix in matrices if tuple(matrix.shape) == shape]} for shape in shapes]
        super().__init__(groups, {"lr": learning_rate})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        assert closure is None
        for group in self.param_groups:
            weights, rate = group["params"], group["lr"]
            gradient_NRC = torch.stack([weight.grad for weight in weights])
            state = self.state[weights[0]]
            momentum_NRC = state.setdefault("momentum", torch.zeros_like(gradient_NRC)).lerp_(gradient_NRC, 0.05)
            update_NRC = orthogonalise(gradient_NRC.lerp(momentum_NRC, 0.95), self.dtype)
            scale = max(1.0, weights[0].shape[0] / weights[0].shape[1]) ** 0.5
            for weight, update_RC in zip(weights, update_NRC, strict=True):
                weight.mul_(1 - rate * MATRIX_WEIGHT_DECAY).add_(update_RC, alpha=-rate * scale)


def orthogonalise(matrices_NRC: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    x_NRC = (matrices_NRC / (matrices_NRC.norm(dim=(1, 2), keepdim=True) + 1e-7)).to(dtype)
    tall = x_NRC.shape[1] > x_NRC.shape[2]
    x_NRC = x_NRC.mT if tall else x_NRC
    for _ in range(5):
        gram = x_NRC @ x_NRC.mT
        x_NRC = 3.4445 * x_NRC + (-4.7750 * gram + 2.0315 * gram @ gram) @ x_NRC
    return (x_NRC.mT if tall else x_NRC).float()


def new_optimizers(model: LlamaForCausalLM, fast_bfloat16: bool) -> list[torch.optim.Optimizer]:
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim == 1 or "embed" in name]
    adam = torch.optim.AdamW(others, lr=OTHER_LEARNING_RATE, betas=(0.9, 0.95), weight_decay=0.0)
    return [Muon(matrices, MATRIX_LEARNING_RATE, torch.bfloat16 if fast_bfloat16 else torch.float32), adam]


def rate_factor(step: int) -> float:
    """Warm-up, a flat stretch, then linearly to zero, by the plan that holds at this step."""
    num_steps = [tokens for first_step, tokens in PLANS if first_step <= step][-1] // BATCH_TOKENS
    return min(1.0, (step + 1) / WARMUP_STEPS, (num_steps - step) / (num_steps * DECAY_SHARE))
