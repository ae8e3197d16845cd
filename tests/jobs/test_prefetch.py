"""What the command prefetch downloads and says."""

from pathlib import Path

import pytest

from finetune.config import CommercialUse, DataConfig, ModelConfig, RecommendedConfig, RunConfig, TrainingConfig, Use
from finetune.errors import ConfigError
from finetune.jobs import prefetch as job

SIZES = {"learning_rate": 1e-3, "max_length": 64, "micro_batch_tokens": 64, "batch_tokens": 64}


def config(model: ModelConfig, data_path: str, *, use: Use = Use.research, offline: bool = False) -> RunConfig:
    return RunConfig(
        recipe="custom",
        use=use,
        output_dir="unused",
        offline=offline,
        model=model,
        data=DataConfig(path=data_path),
        training=TrainingConfig(**SIZES),  # type: ignore[arg-type]
    )


def local_model(folder: Path) -> ModelConfig:
    recommended = RecommendedConfig(**SIZES)  # type: ignore[arg-type]
    return ModelConfig(name="local", path=str(folder), context_length=512, recommended=recommended)


def test_a_local_model_and_a_file_need_no_download(
    tiny_model_dir: Path, choice_rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job.prefetch(config(local_model(tiny_model_dir), str(choice_rows)))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("model  local: nothing to download, ")
    assert str(tiny_model_dir) in lines[0]
    assert lines[1] == "data   nothing to download"


def test_model_and_data_set_of_the_hub_are_fetched(
    tiny_model_dir: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    monkeypatch.setattr(
        job, "resolve_base", lambda model, offline: asked.append((model.hub_id, offline)) or tiny_model_dir
    )
    monkeypatch.setattr(job, "read_hub", lambda hub_id, **options: asked.append((hub_id, options)) or iter(()))
    model = ModelConfig(name="tiny", hub_id="owner/tiny", context_length=512)
    job.prefetch(config(model, "owner/rows"))
    assert asked == [("owner/tiny", False), ("owner/rows", {"subset": None, "split": "train", "offline": False})]
    printed = capsys.readouterr().out
    for part in ("model  owner/tiny: ", str(tiny_model_dir), "data   owner/rows: ", "offline=true"):
        assert part in printed


def test_a_forbidden_licence_stops_before_the_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "resolve_base", lambda *_, **__: pytest.fail("downloaded"))
    model = ModelConfig(
        name="tiny", hub_id="owner/tiny", context_length=512, license="own", commercial_use=CommercialUse.forbidden
    )
    with pytest.raises(ConfigError, match="forbids commercial use"):
        job.prefetch(config(model, "owner/rows", use=Use.commercial))
