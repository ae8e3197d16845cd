"""Training: worker processes that compute gradients, steps, checkpoints. Tensor suffixes: B rows, T positions."""

import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from transformers import LlamaForCausalLM

from embedded_model.files import save_atomically
from embedded_model.model import sum_loss
from embedded_model.optimizer import PLANS, new_optimizers, rate_factor
from embedded_model.rows import BATCH_TOKENS, batch_of_step

SNAPSHOT_SECONDS = 600


class Workers:
    """One single-threaded process per core, each with its part of every batch; the weights are shared memory.

    Threads of one process wait for each other at every operation: on a machine that others use too, that is ten times
    slower than waiting once a step.
    """

    def __init__(self, model: LlamaForCausalLM, rows: dict[int, torch.Tensor], count: int, autocast: bool) -> None:
        model.share_memory()
        self.weights = list(model.parameters())
        self.gradients = [[torch.zeros_like(weight).share_memory_() for weight in self.weights] for _ in range(count)]
        self.losses = torch.zeros(count).share_memory_()
        fork = multiprocessing.get_context("fork")
        self.pipes = []
        for rank in range(count):
            ours, theirs = fork.Pipe()
            serve = partial(self.serve, model, rows, autocast, rank, theirs, os.getpid())
            fork.Process(target=serve, daemon=True).start()
            self.pipes.append(ours)

    def serve(
        self,
        model: LlamaForCausalLM,
        rows: dict[int, torch.Tensor],
        autocast: bool,
        rank: int,
        pipe: Connection,
        parent: int,
    ) -> None:
        """Answers every step number with gradients and loss of this worker's part, until the parent is gone."""
        while os.getppid() == parent:
            if not pipe.poll(10):
                continue
            batch_BT = batch_of_step(rows, pipe.recv())
            loss = sum_loss(model, batch_BT.chunk(len(self.gradients))[rank], autocast) / BATCH_TOKENS
            for target, gradient in zip(self.gradients[rank], torch.autograd.grad(loss, self.weights), strict=True):
                target.copy_(gradient)
            self.losses[rank] = loss.detach()
            pipe.send(True)

    def compute_gradients(self, step: int) -> float:
        """Fills every weight's .grad for the batch of this step; returns the mean loss in nats per token."""
        for pipe in self.pipes:
            pipe.send(step)
        for pipe in self.pipes:
            pipe.recv()
        for weight, *parts in zip(self.weights, *self.gradients, strict=True):
            weight.grad = torch.stack(parts).sum(0)
        return self.losses.sum().item()


@dataclass
class Progress:
    """What a checkpoint holds besides weights and optimizer state."""

    step: int = 0
    seconds: float = 0.0


def save_checkpoint(
    path: Path, model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer], progress: Progress
) -> None:
    state = {"model": model.state_dict(), "optimizers": [optimizer.state_dict() for optimizer in optimizers]}
    save_atomically(path, {**state, **asdict(progress)})


def load_checkpoint(path: Path, model: LlamaForCausalLM, optimizers: list[torch.optim.Optimizer]) -> Progress:
    if not path.exists():
        return Progress()
    state = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    return Progress(state["step"], state["seconds"])


def train(
    model: LlamaForCausalLM,
    rows: dict[int, torch.Tensor],
    checkpoint: Path,
    num_workers: int,
    autocast: bool,
    snapshot: Callable[[Progress], None],
) -> Progress:
    optimizers = new_optimizers(model, autocast)
    peaks = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    progress = load_checkpoint(checkpoint, model, optimizers)
    workers = Workers(model, rows, num_workers, autocast)
    num_steps = PLANS[-1][1] // BATCH_TOKENS
    last_save = time.monotonic()
    while progress.step < num_steps:
        started = time.monotonic()
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            for group in optimizer.param_groups:
                group["lr"] = peak * rate_factor(progress.step)
        loss = workers.compute_gradients(progress.step)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        seconds = time.monotonic() - started
        progress.step += 1
        progress.seconds += seconds
        if progress.step % 10 == 0:
            rate = BATCH_TOKENS / seconds
            print(
                f"step {progress.step}/{num_steps} loss {loss:.3f} {rate:,.0f} tokens/s {progress.seconds:,.0f} s",
                flush=True,
            )
        if time.monotonic() - last_save > SNAPSHOT_SECONDS:
            save_checkpoint(checkpoint, model, optimizers, progress)
            snapshot(progress)
            last_save = time.monotonic()
    save_checkpoint(checkpoint, model, optimizers, progress)
    return progress
