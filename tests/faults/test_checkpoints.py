"""Bars R1 to R4: resume is exact, a kill loses little, damage is set aside, a full disk costs no good checkpoint."""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune.training.checkpoints import (
    ADAPTER_FILES,
    BEST,
    BEST_ADAPTER,
    MANIFEST,
    REASON,
    STATE_FILES,
    damage,
    newest_valid,
    remove_old,
    restore_best,
    sha256,
    write_folder,
)

FIELDS = ("step", "loss", "validation_loss", "learning_rate", "grad_norm", "tokens")


def rows_of(runs: Any, name: str) -> list[list[Any]]:
    return [[row.get(field) for field in FIELDS] for row in runs.metrics(name)]


def copy(runs: Any, source: str, target: str) -> Path:
    """Copy a run folder; where it lies decides nothing."""
    shutil.copytree(runs.path / source, runs.path / target)
    return runs.path / target


def stopped_at(runs: Any, source: str, target: str, step: int) -> Path:
    """Copy a finished run as it would have been, had it been killed after the checkpoint of a step."""
    folder = copy(runs, source, target)
    shutil.rmtree(folder / "adapter")
    for checkpoint in (folder / "checkpoints").glob("step-*"):
        if int(checkpoint.name[5:]) > step:
            shutil.rmtree(checkpoint)
    return folder


EXACT = ("adapter.dropout=0.1", "training.batch_tokens=2048", "training.max_steps=7", "training.logging_steps=1",
         "training.save_steps=1", "training.eval_steps=2", "training.keep_checkpoints=9")  # fmt: skip


@pytest.mark.slow
@pytest.mark.bar("R1")
@pytest.mark.parametrize("packing", ["true", "false"])
def test_stop_and_resume_is_uninterrupted_bit_for_bit(packing: str, runs: Any) -> None:
    words = (*EXACT, f"training.packing={packing}")
    straight = f"straight-{packing}"
    assert runs.train(straight, *words).code == 0
    assert runs.metrics(straight)[-1]["epoch"] > 1, "stop points on both sides of an epoch's end"
    for step in range(1, 7):
        name = f"stopped-{packing}-{step}"
        stopped_at(runs, straight, name, step)
        ended = runs.train(name, *words, "resume=true")
        assert ended.code == 0 and f"going on from step-{step:08d}" in ended.said, ended.said
        assert runs.adapter(name) == runs.adapter(straight)
        assert rows_of(runs, name) == rows_of(runs, straight)
        assert runs.checkpoints(name) == runs.checkpoints(straight)


SHORT = ("training.max_steps=4", "training.save_steps=2", "training.eval_steps=1", "training.keep_checkpoints=1",
         "training.logging_steps=1")  # fmt: skip
_WRITES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")


class KilledAt:
    """Kills this process just before the n-th time that the last step's saving changes a file of the run folder.

    With `snapshots` nothing is killed: what each kill would leave is copied there. safetensors writes past Python's
    `open`, so that its functions count for themselves.
    """

    def __init__(self, number: int, folder: Path, snapshots: Path | None = None) -> None:
        self.number = number
        self.folder = folder
        self.snapshots = snapshots
        self.count = 0
        self.is_on = False

    def about_to(self, what: str) -> None:
        if not self.is_on:
            return
        self.count += 1
        if self.snapshots is not None:
            self.is_on = False
            shutil.copytree(self.folder, self.snapshots / f"{self.count:03} {what.replace('/', ' ')}")
            self.is_on = True
        elif self.count == self.number:
            os.write(2, f"killed at {what}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_on or not arguments or str(self.folder) not in str(arguments[0]):
            return
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if writes or event in _WRITES:
            self.about_to(f"{event} {Path(str(arguments[0])).relative_to(self.folder)}")

    def watched(self, save: Any) -> Any:
        def save_file(tensors: Any, path: Any, *more: Any, **named: Any) -> None:
            self.about_to(f"save {Path(path).relative_to(self.folder)}")
            save(tensors, path, *more, **named)

        return save_file

    def __call__(self) -> None:
        import peft.peft_model

        from finetune.training import states
        from finetune.training.callbacks import Flow

        original = Flow.on_step_end

        def on_step_end(flow: Flow, args: Any, state: Any, control: Any, **named: Any) -> None:
            original(flow, args, state, control, **named)
            self.is_on = self.is_on or state.global_step == state.max_steps

        Flow.on_step_end = on_step_end  # type: ignore[method-assign]
        states.save_file = self.watched(states.save_file)
        peft.peft_model.safe_save_file = self.watched(peft.peft_model.safe_save_file)
        sys.addaudithook(self.hook)


def last_measurement_is_worse() -> None:
    """Let the last checkpoint hold a best adapter that is not its own."""
    from finetune.training.trainer import AdapterTrainer

    original = AdapterTrainer._measure

    def measure(self: AdapterTrainer, model: Any) -> Any:
        loss = original(self, model)
        return loss if loss is None or self.state.global_step < 4 else loss + 9

    AdapterTrainer._measure = measure  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def short(runs: Any) -> bytes:
    """The adapter of a training of four steps that nothing disturbs."""
    assert runs.train("short", *SHORT).code == 0
    return runs.adapter("short")


@pytest.mark.slow
@pytest.mark.bar("R2")
def test_what_a_kill_at_any_file_of_a_save_leaves_can_be_resumed(runs: Any) -> None:
    snapshots = runs.path / "left"

    def copy_all() -> None:
        last_measurement_is_worse()
        KilledAt(0, runs.path / "snapped", snapshots)()

    assert runs.train("snapped", *SHORT, before=copy_all).code == 0
    places = sorted(path.name for path in snapshots.iterdir())
    for part in (*STATE_FILES, BEST_ADAPTER, MANIFEST, "os.rename checkpoints .step-00000004.partial", ".adapter"):
        assert any(part in place for place in places), (part, places)
    found = []
    for place in places:
        newest = newest_valid(snapshots / place / "checkpoints")
        assert newest is not None and not list((snapshots / place).rglob("damaged-*")), place
        restore_best(newest)
        assert damage(newest.parent / BEST, ADAPTER_FILES) is None
        found.append(newest.name)
        adapter = snapshots / place / "adapter" / "adapter_model.safetensors"
        assert not adapter.parent.exists() or adapter.read_bytes() == runs.adapter("snapped"), place
    assert set(found) == {"step-00000002", "step-00000004"} and found == sorted(found)


@pytest.mark.bar("R2")
@pytest.mark.parametrize(
    "stride", [pytest.param(8, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.acceptance)]
)
def test_a_kill_at_a_file_of_a_save_is_recovered_by_the_same_command(stride: int, runs: Any, short: bytes) -> None:
    num_kills = 0
    for number in range(1, 200, stride):
        name = f"killed-{stride}-{number}"
        ended = runs.train(name, *SHORT, before=KilledAt(number, runs.path / name))
        if ended.code == 0:
            break
        place = ended.said.strip().splitlines()[-1]
        assert ended.code == -9, ended.said
        num_kills += 1
        again = runs.train(name, *SHORT, "resume=true")
        assert again.code == 0, (place, again.said)
        assert any(f"going on from step-0000000{step}" in again.said for step in (2, 4)) or "already" in again.said, (
            place
        )
        assert runs.adapter(name) == short, place
        assert rows_of(runs, name) == rows_of(runs, "short"), place
        assert not runs.leftovers(name) and runs.checkpoints(name)[-1] == "step-00000004", place
        shutil.rmtree(runs.path / name)
    assert num_kills > 40 / stride


def damage_one(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "deleted":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    else:
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])


@pytest.fixture(scope="module")
def saved(runs: Any) -> Path:
    """Checkpoints of steps 2 and 4, of which the newer one holds a best adapter that is not its own."""
    words = ("training.max_steps=4", "training.save_steps=2", "training.eval_steps=3", "training.keep_checkpoints=2")

    assert runs.train("saved", *words, before=last_measurement_is_worse).code == 0
    return runs.path / "saved"


@pytest.mark.slow
@pytest.mark.bar("R3")
@pytest.mark.parametrize("how", ["deleted", "truncated", "flipped"])
@pytest.mark.parametrize("file", [*STATE_FILES, BEST_ADAPTER, MANIFEST])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_it_is_used(
    file: str, how: str, saved: Path, tmp_path: Path
) -> None:
    checkpoints = shutil.copytree(saved / "checkpoints", tmp_path / "checkpoints")
    newest = newest_valid(checkpoints)
    assert newest is not None and newest.name == "step-00000004"
    damage_one(newest / file, how)
    older = newest_valid(checkpoints)
    assert older is not None and older.name == "step-00000002"
    aside = checkpoints / "damaged-step-00000004"
    reason = (aside / REASON).read_text().strip()
    assert file in reason or file == MANIFEST, "a flipped bit in the manifest speaks of the file that it lists"
    assert not newest.exists()


@pytest.mark.slow
@pytest.mark.bar("R3")
@pytest.mark.parametrize(("file", "how"), [("optimizer.safetensors", "flipped"), (MANIFEST, "deleted"),
                                           ("random.json", "truncated")])  # fmt: skip
def test_resume_from_a_damaged_checkpoint_ends_as_if_nothing_had_happened(
    file: str, how: str, runs: Any, whole: bytes
) -> None:
    name = f"damaged-{file}"
    folder = copy(runs, "whole", name)
    shutil.rmtree(folder / "adapter")
    damage_one(folder / "checkpoints" / "step-00000006" / file, how)
    ended = runs.train(name, "resume=true")
    assert ended.code == 0 and "step-00000006 is damaged" in ended.said, ended.said
    assert "going on from step-00000004" in ended.said and runs.adapter(name) == whole


@pytest.mark.slow
@pytest.mark.bar("R3")
def test_a_damaged_best_adapter_is_noticed_and_made_again(runs: Any, whole: bytes) -> None:
    def spoil() -> None:
        from finetune.training.trainer import AdapterTrainer

        original = AdapterTrainer.load_best

        def load_best(self: AdapterTrainer) -> None:
            damage_one(self.checkpoints_dir / BEST / "adapter_model.safetensors", "flipped")
            original(self)

        AdapterTrainer.load_best = load_best  # type: ignore[method-assign]

    ended = runs.train("best", before=spoil)
    assert ended.code == 1 and "the best adapter so far is damaged (adapter_model.safetensors has changed" in ended.said
    again = runs.train("best", "resume=true")
    assert again.code == 0 and runs.adapter("best") == whole


def small_checkpoint(folder: Path, step: int) -> Path:
    """A checkpoint of small files, as far as `damage` looks into it."""
    state = {"global_step": step, "best_global_step": step}

    def fill(staged: Path) -> None:
        for name in STATE_FILES:
            (staged / name).write_text(json.dumps(state) if name.endswith(".json") else name)

    write_folder(folder / f"step-{step:08d}", fill)
    return folder / f"step-{step:08d}"


@pytest.mark.bar("R9")
@pytest.mark.parametrize("file", STATE_FILES)
def test_a_checkpoint_that_lacks_a_state_is_refused_by_name(file: str, tmp_path: Path) -> None:
    checkpoint = small_checkpoint(tmp_path, 4)
    assert damage(checkpoint) is None
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    del manifest["files"][file]
    (checkpoint / MANIFEST).write_text(json.dumps(manifest))
    (checkpoint / file).unlink()
    assert damage(checkpoint) == f"{file} is missing in its manifest.json"


@pytest.mark.bar("R3")
def test_a_checkpoint_without_the_best_adapter_that_it_speaks_of_is_refused(tmp_path: Path) -> None:
    def fill(staged: Path) -> None:
        for name in STATE_FILES:
            (staged / name).write_text('{"global_step": 4, "best_global_step": 2}')

    write_folder(tmp_path / "step-00000004", fill)
    assert damage(tmp_path / "step-00000004") == f"{BEST_ADAPTER} is missing in its manifest.json"


@pytest.mark.bar("R3")
@pytest.mark.parametrize(
    "manifest", ["", "[]", '{"files": []}', '{"files": {"a": 3}}', '{"files": {"a": {"size": 1}}}', "\x00", "null"]
)
def test_a_manifest_of_any_shape_is_damage_and_no_crash(manifest: str, tmp_path: Path) -> None:
    checkpoint = small_checkpoint(tmp_path, 4)
    (checkpoint / MANIFEST).write_text(manifest)
    assert damage(checkpoint) is not None


@pytest.mark.bar("R3")
def test_files_beside_the_listed_ones_are_no_damage(tmp_path: Path) -> None:
    checkpoint = small_checkpoint(tmp_path, 4)
    (checkpoint / ".DS_Store").write_text("of the file browser")
    assert damage(checkpoint) is None


@pytest.mark.bar("R2")
def test_a_checkpoint_that_is_written_again_is_never_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill between the two renames leaves the old one beside its place, from where it is put back."""
    checkpoint = small_checkpoint(tmp_path, 4)
    before = sha256(checkpoint / MANIFEST)
    original, calls = Path.rename, []

    def rename(self: Path, target: Path) -> Path:
        calls.append(self.name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        small_checkpoint(tmp_path, 4)
    monkeypatch.undo()
    assert not checkpoint.exists()
    found = newest_valid(tmp_path)
    assert found == checkpoint and sha256(found / MANIFEST) == before and not list(tmp_path.glob(".*"))


def test_old_checkpoints_go_and_damaged_ones_stay(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        small_checkpoint(tmp_path, step)
    (tmp_path / "damaged-step-00000001").mkdir()
    remove_old(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "damaged-step-00000001",
        "step-00000004",
        "step-00000006",
    ]


DISK = ("training.save_steps=2", "training.keep_checkpoints=2")


def limit_file_size() -> None:
    """From the second checkpoint on no file may grow larger than the adapter: SIGXFSZ is ignored, as Python does."""
    import resource

    from finetune.training import states

    assert signal.getsignal(signal.SIGXFSZ) is signal.SIG_IGN
    original, calls = states.save_optimizer, []

    def save_optimizer(folder: Path, *arguments: Any) -> None:
        calls.append(1)
        limit = (folder / "adapter_model.safetensors").stat().st_size + 1000 if len(calls) == 2 else 1 << 30
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        original(folder, *arguments)

    states.save_optimizer = save_optimizer


def fill_disk(calls_until_full: int) -> Callable[[], None]:
    """Let the disk be full when its room is looked at the n-th time: before the training, then before each save."""

    def patch() -> None:
        from finetune.training import saving

        original, calls = saving._free, []

        def free(folder: Path) -> int:
            calls.append(1)
            return 1000 if len(calls) == calls_until_full else original(folder)

        saving._free = free

    return patch


def fail_flush() -> None:
    """Let the flush of a file of the second checkpoint report a full disk, as network file systems do late."""
    original, calls = os.fsync, []

    def fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").resolve()
        calls.append(1 if path.parent.name == ".step-00000004.partial" else 0)
        if calls[-1] and sum(calls) == 3:
            raise OSError(28, "No space left on device", str(path))
        original(descriptor)

    os.fsync = fsync


@pytest.mark.slow
@pytest.mark.bar("R4")
@pytest.mark.parametrize("fault", ["limit", "full", "flush"])
@pytest.mark.parametrize("policy", ["stop", "warn"])
def test_a_full_disk_costs_no_good_checkpoint(fault: str, policy: str, runs: Any, whole: bytes) -> None:
    name, faults = f"{fault}-{policy}", {"limit": limit_file_size, "full": fill_disk(3), "flush": fail_flush}
    words = (*DISK, f"training.on_save_error={policy}")
    ended = runs.train(name, *words, before=faults[fault])
    assert "step 4: the checkpoint could not be saved" in ended.said, ended.said
    assert "last good checkpoint: step-00000002" in ended.said and not runs.leftovers(name)
    if policy == "warn":
        assert ended.code == 0 and "going on without it" in ended.said, ended.said
        assert runs.checkpoints(name) == ["step-00000002", "step-00000006"]
    else:
        assert ended.code == 1 and runs.checkpoints(name) == ["step-00000002"], ended.said
        assert ended.said.strip().splitlines()[-1].endswith(f"training.on_save_error={policy} resume=true"), ended.said
        again = runs.train(name, *words, "resume=true")
        assert again.code == 0 and "going on from step-00000002" in again.said, again.said
    assert runs.adapter(name) == whole


@pytest.mark.slow
@pytest.mark.bar("R4")
def test_a_run_whose_checkpoints_do_not_fit_does_not_begin(runs: Any) -> None:
    ended = runs.train("room", *DISK, before=fill_disk(1))
    last = ended.said.strip().splitlines()[-1]
    assert ended.code == 1 and "3 checkpoints of" in last and "training.keep_checkpoints=2" in last, ended.said
    assert not (runs.path / "room" / "checkpoints").exists()


@pytest.mark.slow
@pytest.mark.bar("R4")
def test_the_size_that_is_checked_for_is_that_of_a_checkpoint(saved: Path) -> None:
    newest = saved / "checkpoints" / "step-00000004"
    size = sum(path.stat().st_size for path in newest.iterdir())
    adapter = (newest / "adapter_model.safetensors").stat().st_size
    assert 4 * adapter < size < 4 * adapter + 400_000
