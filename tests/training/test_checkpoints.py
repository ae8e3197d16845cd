"""Checkpoints: complete or absent, damage is found, state comes back bit for bit."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from finetune.training import checkpoints, states


def write(root: Path, step: int, content: str = "weights") -> Path:
    target = root / checkpoints.checkpoint_name(step)

    def fill(folder: Path) -> None:
        for name in (*checkpoints.STATE_FILES, "a.bin"):
            (folder / name).write_text(content * 100)
        (folder / checkpoints.TRAINER_STATE).write_text('{"best_global_step": 0, "global_step": 1}')

    checkpoints.write_folder(target, fill)
    return target


def test_a_written_checkpoint_is_valid_and_leaves_nothing_beside(tmp_path: Path) -> None:
    folder = write(tmp_path, 5)
    assert folder.name == "step-00000005" and checkpoints.damage(folder) is None
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_a_failed_write_keeps_what_stood_there(tmp_path: Path) -> None:
    folder = write(tmp_path, 5)

    def fail(staged: Path) -> None:
        (staged / "a.bin").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        checkpoints.write_folder(folder, fail)
    assert checkpoints.damage(folder) is None and checkpoints.newest_valid(tmp_path) == folder


@pytest.mark.parametrize("harm", ["delete", "truncate", "flip", "manifest"])
def test_damage_is_found_and_the_older_checkpoint_is_used(harm: str, tmp_path: Path) -> None:
    older, newer = write(tmp_path, 5), write(tmp_path, 10)
    file = newer / "a.bin"
    content = bytearray(file.read_bytes())
    content[3] ^= 1
    if harm == "delete":
        file.unlink()
    elif harm == "manifest":
        (newer / checkpoints.MANIFEST).write_text("{")
    else:
        file.write_bytes(content if harm == "flip" else content[:-1])
    assert checkpoints.damage(newer)
    assert checkpoints.newest_valid(tmp_path) == older
    assert (tmp_path / f"damaged-{newer.name}").is_dir()


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (5, 10, 100, 20):
        write(tmp_path, step)
    checkpoints.remove_old(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000020", "step-00000100"]


def test_optimizer_and_schedule_come_back_bit_for_bit(tmp_path: Path) -> None:
    def fresh() -> tuple[torch.nn.Linear, torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
        torch.manual_seed(0)
        layer = torch.nn.Linear(4, 3)
        optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1)
        return layer, optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))

    def step(layer: torch.nn.Linear, optimizer: torch.optim.Optimizer, scheduler: object) -> None:
        layer(torch.ones(2, 4)).square().sum().backward()
        optimizer.step()
        scheduler.step()  # type: ignore[attr-defined]
        optimizer.zero_grad()

    straight = fresh()
    for _ in range(4):
        step(*straight)
    stopped = fresh()
    for _ in range(2):
        step(*stopped)
    states.save_optimizer(tmp_path, stopped[1], stopped[2])
    resumed = fresh()
    resumed[0].load_state_dict(stopped[0].state_dict())
    states.load_optimizer(tmp_path, resumed[1], resumed[2])
    for _ in range(2):
        step(*resumed)
    assert torch.equal(resumed[0].weight, straight[0].weight)
    assert not list(tmp_path.glob("*.pt")) and not list(tmp_path.glob("*.bin"))


def test_random_numbers_go_on_where_they_were(tmp_path: Path) -> None:
    states.save_random_states(tmp_path, [states.RandomState.capture().to_json()])
    expected = (random.random(), np.random.rand(), torch.rand(1).item())
    states.load_random_state(tmp_path, 0)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected
    torch.manual_seed(7)
    expected = torch.rand(1).item()
    torch.manual_seed(7)
    states.load_random_state(tmp_path, 1)
    assert torch.rand(1).item() == expected, "a process that is new keeps its own seed"
