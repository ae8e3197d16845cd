"""Each conf/model/*.yaml has exactly the fields of ModelConfig, and its sizes add up to the published model."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune.config import AUTO, CommercialUse, Dtype, ModelConfig, RecommendedConfig, ShapeConfig
from finetune.model.license import CONDITIONS, OPEN
from finetune.model.shape import check_shape, context_of, num_parameters, recommend

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "finetune" / "conf" / "model"
FILES = sorted(FOLDER.glob("*.yaml"))
HUB_MODELS = [path.stem for path in FILES if path.stem not in ("embedded", "local")]

PUBLISHED_WEIGHTS = {
    "falcon3_7b": 7_455_550_464,
    "gemma3_4b": 3_880_263_168,  # the language model's part of 4,300,079,472
    "llama3_1_8b_instruct": 8_030_261_248,
    "llama3_2_1b": 1_235_814_400,
    "llama3_2_3b": 3_212_749_824,
    "mistral_7b": 7_248_023_552,
    "mixtral_8x7b": 46_702_792_704,
    "phi4_mini": 3_836_021_760,
    "qwen2_5_7b": 7_615_616_512,
    "qwen2_5_coder_7b": 7_615_616_512,
    "qwen3_4b": 4_022_468_096,
    "qwen3_8b": 8_190_735_360,
    "smollm3_3b": 3_075_098_624,
}
"""`safetensors.total` of each hub page; a wrong size in a YAML moves the sum by far more than 0.01 %."""


def read(name: str) -> dict[str, Any]:
    content = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    assert isinstance(content, dict)
    return content


def build(name: str) -> ModelConfig:
    content = read(name)
    shape = content.pop("shape")
    return ModelConfig(
        **content
        | {
            "commercial_use": CommercialUse[content["commercial_use"]],
            "dtype": Dtype[content["dtype"]],
            "shape": None if shape is None else ShapeConfig(**shape),
            "recommended": RecommendedConfig(**content["recommended"]),
        }
    )


def assert_types(values: dict[str, Any], schema: type, *, open_values: bool) -> None:
    assert set(values) == {field.name for field in fields(schema)}
    kinds = {"int": int, "float": float, "bool": bool, "str": str}
    for field in fields(schema):
        value, kind = values[field.name], str(getattr(field.type, "__name__", field.type))
        if (open_values and value == "???") or (value is None and "None" in kind) or kind not in kinds:
            continue
        assert type(value) is kinds[kind], f"{field.name}: {value!r} is no {kind}"


def test_all_promised_models_are_there() -> None:
    assert {path.stem for path in FILES} == {"embedded", "local", *PUBLISHED_WEIGHTS}


@pytest.mark.parametrize("name", [path.stem for path in FILES])
def test_a_yaml_has_exactly_the_fields_of_the_schema(name: str) -> None:
    content = read(name)
    assert_types(content, ModelConfig, open_values=name == "local")
    assert_types(content["recommended"], RecommendedConfig, open_values=name == "local")
    if name != "local":
        assert_types(content["shape"], ShapeConfig, open_values=False)
        assert not list(build(name).problems())
    assert content["name"] == name


@pytest.mark.parametrize("name", [path.stem for path in FILES])
def test_a_header_says_what_for_which_memory_and_which_licence(name: str) -> None:
    lines = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    header = [line for line in lines if line.startswith("# ")]
    assert header == lines[: len(header)]
    assert "emory" in header[1]
    assert any(line.startswith("# Licence: ") for line in header)


@pytest.mark.parametrize("name", HUB_MODELS)
def test_the_sizes_add_up_to_the_published_number_of_weights(name: str) -> None:
    shape = build(name).shape
    assert shape is not None
    assert num_parameters(shape) == pytest.approx(PUBLISHED_WEIGHTS[name], rel=1e-4)


@pytest.mark.parametrize("name", [*PUBLISHED_WEIGHTS, "embedded"])
def test_recommendations_fit_the_model_and_each_other(name: str) -> None:
    model = build(name)
    sizes = model.recommended
    micro = sizes.batch_tokens if sizes.micro_batch_tokens == AUTO else sizes.micro_batch_tokens
    assert isinstance(micro, int) and sizes.batch_tokens % micro == 0
    assert 8 <= sizes.max_length <= min(model.context_length, micro)
    assert 1e-4 <= sizes.learning_rate <= 5e-3


@pytest.mark.parametrize("name", HUB_MODELS)
def test_a_licence_states_its_text_and_its_conditions(name: str) -> None:
    model = build(name)
    assert model.license_url is not None
    assert model.license_url.startswith("https://")
    if model.commercial_use is CommercialUse.allowed:
        assert OPEN.fullmatch(model.license)
    else:
        assert model.commercial_use is CommercialUse.conditional
        assert any(word in model.license for word in CONDITIONS)


def test_the_embedded_model_follows_the_rule_for_small_models() -> None:
    model = build("embedded")
    assert model.shape is not None
    assert recommend(model.shape, model.context_length) == model.recommended


def test_the_embedded_model_is_described_as_it_is() -> None:
    path = ROOT / "models" / "embedded" / "config.json"
    if not path.is_file():
        pytest.skip("models/embedded is not built yet")
    config = json.loads(path.read_text(encoding="utf-8"))
    model = build("embedded")
    assert model.shape is not None
    check_shape(model.shape, config)
    assert model.context_length == context_of(config)
