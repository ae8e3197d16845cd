"""Bars S1 and S2: no pickle and no Python of a model, adapter, checkpoint or data folder is ever loaded."""

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest

from finetune.data.load import read_rows
from finetune.errors import DataError, ModelError
from finetune.log import quiet_libraries
from finetune.model.adapter_folder import check_adapter_folder
from finetune.model.shape import read_model_config

MODEL_PICKLES = (
    *("pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "pytorch_model.pt", "model.pth", "consolidated.00.pth"),
    *("model.ckpt", "adapter_model.bin", "training_args.bin", "optimizer.pt", "optimizer.bin", "scheduler.pt"),
    *(
        "scaler.pt",
        "rng_state.pth",
        "rng_state_0.pth",
        "random_states_0.pkl",
        "trainer_state.pkl",
        "pytorch_model_fsdp.bin",
    ),
    *("tokenizer.pkl", "vocab.pkl", "tokenizer_config.pkl", "added_tokens.pkl", "spiece.pkl", "imatrix.dat"),
    *("imatrix.npy", "imatrix.gguf_file", "weights.npz", "embeddings.npy", "model.joblib", "dataset.pkl", "state.pkl"),
    *("cache-0123456789abcdef.arrow.pkl", "mp_rank_00_model_states.pt", "pissa_init.bin", "eva_state_dict.pt"),
)
DATA_PICKLES = (
    "rows.pkl",
    "rows.pickle",
    "rows.npy",
    "rows.npz",
    "rows.pt",
    "rows.joblib",
    "rows.feather",
    "cache.bin",
)
HEAD = 'import pathlib\npathlib.Path({canary!r}).write_text("ran")\n'
CODE = HEAD + "class Evil:\n    from_pretrained = classmethod(lambda c, *a, **k: c())\n"


class Canary:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.path,)


def plant(folder: Path, names: tuple[str, ...], canary: Path) -> None:
    """Write pickles in every dress: plain, by torch.save, and as NumPy's arrays of objects."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = pickle.dumps(Canary(canary))
    for number, name in enumerate(names):
        path = folder / name
        if name.endswith((".npy", ".npz")):
            import numpy as np

            objects = np.array([Canary(canary)], dtype=object)
            np.savez(path, a=objects) if name.endswith(".npz") else np.save(path, objects, allow_pickle=True)
        elif number % 2:
            import torch

            torch.save({"weight": Canary(canary)}, path)
        else:
            path.write_bytes(plain)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.mark.bar("S1")
def test_the_canary_sings(canary: Path, tmp_path: Path) -> None:
    import torch

    plant(tmp_path, ("a.pkl",), canary)
    pickle.loads((tmp_path / "a.pkl").read_bytes())
    assert canary.is_dir()
    canary.rmdir()
    plant(tmp_path, ("a.pkl", "b.pt"), canary)
    torch.load(tmp_path / "b.pt", weights_only=False)
    assert canary.is_dir()


@pytest.mark.bar("S1")
@pytest.mark.slow
def test_no_pickle_of_any_folder_is_loaded_in_the_whole_life_of_a_run(runs: Any, canary: Path, tmp_path: Path) -> None:
    model = shutil.copytree(runs.model, tmp_path / "model")
    data = tmp_path / "data"
    plant(model, MODEL_PICKLES, canary)
    plant(data, DATA_PICKLES, canary)
    shutil.copy(runs.rows, data / "train.jsonl")
    local = [f"model.path={model}", f"data.path={data}", "export.formats=[safetensors]", "data.max_rejected_share=1"]
    words = [*local, "training.max_steps=4", "training.save_steps=2"]
    ended = runs.train("pickles", *words, before=lambda: stop_after_step(2))
    folder = runs.path / "pickles"
    assert ended.code == 1, ended.said
    for step in (folder / "checkpoints").glob("step-*"):
        plant(step, MODEL_PICKLES, canary)
    plant(folder / "checkpoints", MODEL_PICKLES, canary)
    plant(folder / "adapter_extra", MODEL_PICKLES, canary)
    ended = runs.train("pickles", *words, "resume=true")
    assert ended.code == 0, ended.said
    plant(folder / "adapter", MODEL_PICKLES, canary)
    for command in ("evaluate", "export"):
        ended = runs.call(command, "pickles", *words)
        assert ended.code == 0, ended.said
    ended = runs.train("pickles_again", *words, f"adapter.path={folder / 'adapter'}", "training.max_steps=1")
    assert ended.code == 0, ended.said
    assert not canary.exists()


def stop_after_step(step: int) -> None:
    import signal

    from finetune.training import trainer

    original = trainer.AdapterTrainer.training_step
    calls: list[int] = []

    def counted(self: Any, *arguments: Any, **named: Any) -> Any:
        if self.state.global_step == step and not calls:
            calls.append(1)
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *arguments, **named)

    trainer.AdapterTrainer.training_step = counted  # type: ignore[method-assign]


@pytest.mark.bar("S1")
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pth", "pytorch_model.pt", "model.ckpt"])
def test_a_model_of_pickles_alone_is_refused_with_the_way_out(name: str, tmp_path: Path, canary: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    plant(tmp_path, (name,), canary)
    with pytest.raises(ModelError, match=rf"{name}.*can run any code.*save_pretrained"):
        read_model_config(tmp_path)
    assert not canary.exists()


@pytest.mark.bar("S1")
@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.pt"])
def test_an_adapter_of_pickles_alone_is_refused(name: str, tmp_path: Path, canary: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4}))
    plant(tmp_path, (name,), canary)
    with pytest.raises(ModelError, match="pickled adapters are not loaded"):
        check_adapter_folder(tmp_path)
    assert not canary.exists()


@pytest.mark.bar("S1")
@pytest.mark.parametrize("name", DATA_PICKLES)
def test_a_data_file_that_is_a_pickle_is_refused(name: str, tmp_path: Path, canary: Path) -> None:
    plant(tmp_path, (name,), canary)
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        list(read_rows(str(tmp_path / name)))
    assert not canary.exists()


@pytest.mark.bar("S1")
def test_the_package_itself_neither_writes_nor_reads_pickles() -> None:
    root = Path(__file__).resolve().parents[2] / "finetune"
    for path in root.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for word in (
            "import pickle",
            "torch.load(",
            "torch.save(",
            "allow_pickle=True",
            "import joblib",
            "import dill",
        ):
            assert word not in text, f"{path}: {word}"


CODE_FILES = (
    "modeling_evil.py",
    "configuration_evil.py",
    "tokenization_evil.py",
    "evil.py",
    "custom_generate/generate.py",
)
AUTO_MAP = {
    "AutoConfig": "configuration_evil.Evil",
    "AutoModelForCausalLM": "modeling_evil.Evil",
    "AutoModel": "modeling_evil.Evil",
    "AutoTokenizer": ["tokenization_evil.Evil", "tokenization_evil.Evil"],
}
UNKNOWN = "no_such_architecture"
CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown type with code": ({"model_type": UNKNOWN, "auto_map": AUTO_MAP}, "never run"),
    "unknown type with another's code": (
        {"model_type": UNKNOWN, "auto_map": {"AutoConfig": "evil/repository--configuration_evil.Evil"}},
        "never run",
    ),
    "unknown type alone": ({"model_type": UNKNOWN}, UNKNOWN),
    "type of a path": ({"model_type": "../evil"}, "evil"),
    "attention of a repository": ({"_attn_implementation": "evil/kernel"}, "never fetched"),
    "attention of a repository, new name": ({"attn_implementation": "evil/kernel:forward"}, "never fetched"),
    "attention by part": ({"attn_implementation": {"text_config": "evil/kernel"}}, "never fetched"),
    "attention inside": ({"text_config": {"_attn_implementation": "evil/kernel@main"}}, "never fetched"),
    "attention that is a list": ({"_attn_implementation": ["evil/kernel"]}, "never fetched"),
    "experts of a repository": ({"_experts_implementation": "evil/kernel"}, "never fetched"),
    "quantised by evil": ({"quantization_config": {"quant_method": "evil", "modules": "evil.Evil"}}, "quantised"),
    "quantised by a list": ({"quantization_config": ["evil.Evil"]}, "quantised"),
    "quantised by a text": ({"quantization_config": "evil.Evil"}, "quantised"),
    "other weights": ({"transformers_weights": "../evil/model.safetensors"}, "names other weights"),
}
HARMLESS: dict[str, dict[str, Any]] = {
    "known type with code": {"auto_map": AUTO_MAP},
    "pipelines": {"custom_pipelines": {"text-generation": {"impl": "evil.Evil", "pt": ["AutoModelForCausalLM"]}}},
    "architecture of a module": {"architectures": ["evil.Evil", "os.system"]},
    "task": {"task_specific_params": {"auto_map": AUTO_MAP}},
}


def evil_copy(model: Path, folder: Path, canary: Path, **config: Any) -> Path:
    """A model folder with code in every file that a library might import, and a changed config.json."""
    copy = shutil.copytree(model, folder)
    for name in CODE_FILES:
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text(CODE.format(canary=str(canary)))
    content = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(content | config))
    return copy


def load(folder: Path) -> None:
    """What the jobs do with a folder, in their order."""
    import torch

    from finetune.config import ModelConfig, QuantizationConfig
    from finetune.model.hardware import Hardware
    from finetune.model.load import load_base, load_tokenizer

    read_model_config(folder)
    tokenizer = load_tokenizer(folder)
    model = ModelConfig(name="evil", path=str(folder), context_length=512)
    hardware = Hardware(device=torch.device("cpu"), dtype=torch.float32, reason="test")
    load_base(folder, model, QuantizationConfig(), hardware, tokenizer)


@pytest.mark.bar("S2")
@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
def test_a_model_that_wants_code_is_refused(name: str, tiny_model_dir: Path, tmp_path: Path, canary: Path) -> None:
    changes, message = CONFIGS[name]
    folder = evil_copy(tiny_model_dir, tmp_path / "model", canary, **changes)
    with pytest.raises(ModelError, match=message) as caught:
        load(folder)
    assert "trust_remote_code" not in str(caught.value)
    assert not canary.exists()


@pytest.mark.bar("S2")
@pytest.mark.slow
@pytest.mark.parametrize("name", HARMLESS)
def test_code_beside_a_known_architecture_is_not_run(
    name: str, tiny_model_dir: Path, tmp_path: Path, canary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = evil_copy(tiny_model_dir, tmp_path / "model", canary, **HARMLESS[name])
    monkeypatch.chdir(folder)
    load(folder)
    assert not canary.exists()


@pytest.mark.bar("S2")
@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"tokenizer_class": "EvilTokenizer", "auto_map": {"AutoTokenizer": ["tokenization_evil.Evil", None]}},
        {"auto_map": {"AutoTokenizer": [None, "evil/repository--tokenization_evil.Evil"]}},
        {"tokenizer_class": "evil.Evil"},
        {"tokenizer_class": "os.system", "processor_class": "evil.Evil"},
    ],
    ids=["own class", "another's class", "class of a module", "function"],
)
def test_code_of_a_tokenizer_is_not_run(
    changes: dict[str, Any], tiny_model_dir: Path, tmp_path: Path, canary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = evil_copy(tiny_model_dir, tmp_path / "model", canary)
    monkeypatch.chdir(folder)
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    (folder / "generation_config.json").write_text(json.dumps({"custom_generate": "custom_generate/generate.py"}))
    try:
        load(folder)
    except ModelError as error:
        assert "trust_remote_code" not in str(error)
    assert not canary.exists()


@pytest.mark.bar("S2")
def test_an_adapter_inside_a_model_folder_is_refused(tmp_path: Path) -> None:
    """transformers would put it on the model, or load the other model that it names."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "evil/model"}))
    with pytest.raises(ModelError, match=r"adapter_config\.json.*adapter\.path"):
        read_model_config(tmp_path)


@pytest.mark.bar("S2")
def test_weights_outside_the_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    for name in ("../model.safetensors", "/etc/passwd", "sub/model.safetensors"):
        index = {"weight_map": {"a": name}}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
        with pytest.raises(ModelError, match="outside its folder"):
            read_model_config(tmp_path)


@pytest.mark.bar("S2")
@pytest.mark.slow
def test_the_class_that_an_adapter_names_is_not_imported(
    tiny_model_dir: Path, plain_adapter_dir: Path, tmp_path: Path, canary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from finetune.model.adapter import load_adapter

    folder = shutil.copytree(plain_adapter_dir, tmp_path / "adapter")
    (tmp_path / "evil.py").write_text(CODE.format(canary=str(canary)))
    monkeypatch.syspath_prepend(str(tmp_path))
    path = folder / "adapter_config.json"
    mapping = {"base_model_class": "Evil", "parent_library": "evil"}
    changes = {"auto_mapping": mapping, "megatron_core": "evil", "base_model_name_or_path": str(tmp_path)}
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    base = AutoModelForCausalLM.from_pretrained(tiny_model_dir, dtype=torch.float32)
    load_adapter(base, folder, trainable=True)
    assert not canary.exists()


@pytest.mark.bar("S2")
def test_native_code_of_the_hub_is_out_of_reach() -> None:
    """bitsandbytes asks the package `kernels` for code on import, and transformers for attention."""
    quiet_libraries()
    with pytest.raises(ImportError):
        import kernels  # noqa: F401
    from transformers.utils.import_utils import is_kernels_available

    assert not is_kernels_available()
