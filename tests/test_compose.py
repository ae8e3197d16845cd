"""Recipes and command-line words become one typed configuration, or one clear line."""

from pathlib import Path

import pytest

from finetune import load_config
from finetune.config import DataFormat, ExportFormat, QuantizationMethod
from finetune.errors import ConfigError, RecipeNotFound
from finetune.overrides import group_options, schema_types
from finetune.recipes import list_recipes, recipe_summary

RECIPES = sorted(list_recipes())
MODELS = [name for name in group_options("model") if name != "local"]
CUAD_PROMPT = "Which law governs? {Governing Law}"


def test_the_seven_recipes_are_there() -> None:
    named = {"legal_qlora", "legal_lora", "medical_qlora", "medical_lora", "code_qlora", "code_lora", "quickstart"}
    assert named <= set(RECIPES)


@pytest.mark.few(2)
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_composes_with_its_own_and_the_embedded_model(recipe: str) -> None:
    own, embedded = load_config(recipe), load_config(recipe, "model=embedded")
    assert own.recipe == embedded.recipe == recipe
    assert own.output_dir == f"outputs/{recipe}"
    if recipe != "quickstart":  # few steps of the embedded model want a rate of their own
        assert embedded.training.learning_rate == embedded.model.recommended.learning_rate
    assert embedded.model.path is not None and Path(embedded.model.path).is_absolute()
    assert Path(own.data.path).is_file()


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_says_what_for_memory_and_command(recipe: str) -> None:
    text = list_recipes()[recipe].read_text(encoding="utf-8")
    assert recipe_summary(list_recipes()[recipe])
    assert "Memory:" in text and "Expected:" in text and f"recipe={recipe}" in text


@pytest.mark.few(2)
@pytest.mark.parametrize("model", MODELS)
def test_every_model_composes(model: str) -> None:
    config = load_config("legal_qlora", f"model={model}")
    assert config.model.license != "unknown" and config.model.shape is not None
    assert config.training.max_length <= config.model.context_length


def test_groups_and_values_can_be_overridden() -> None:
    config = load_config("legal_qlora", "model=embedded", "quantization=none", "adapter=rslora", "training.max_steps=7")
    assert config.quantization.method is QuantizationMethod.none
    assert config.adapter.rank == 64 and config.training.max_steps == 7


def test_values_that_hydras_grammar_rejects_are_taken_literally(tmp_path: Path) -> None:
    odd = {
        "data.prompt": CUAD_PROMPT,
        "data.completion": "{Governing Law-Answer}",
        "data.system": "Say 'yes', or \"no\": a&b {x[0]} {Size: cm} é\\n",
        "data.group": "a.b",
    }
    config = load_config("quickstart", *(f"{key}={value}" for key, value in odd.items()))
    assert config.data.prompt == CUAD_PROMPT
    assert config.data.completion == "{Governing Law-Answer}"
    assert config.data.system == odd["data.system"]
    assert config.data.group == "a.b"


@pytest.mark.parametrize(
    "name", ["größe.csv", "data(1).csv", "a&b.csv", "x=y.csv", "with space.csv", "it's.csv", "a,b.csv"]
)
def test_odd_file_names(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config("quickstart", f"data.path={name}").data.path == str(tmp_path / name)


def test_quotes_that_the_shell_left_are_taken_off() -> None:
    config = load_config("quickstart", f'data.prompt="{CUAD_PROMPT}"', "data.completion='{Governing Law-Answer}'")
    assert (config.data.prompt, config.data.completion) == (CUAD_PROMPT, "{Governing Law-Answer}")


@pytest.mark.parametrize(
    "value", ["C:\\docs\\", "a\\'b", "\\\\server\\share", "tail\\", "${notclosed", "costs ${amount} now"]
)
def test_backslashes_and_dollars_survive(value: str) -> None:
    assert load_config("quickstart", f"data.system={value}").data.system == value


def test_home_folder_is_expanded() -> None:
    assert load_config("quickstart", "data.path=~/rows.jsonl").data.path == str(Path.home() / "rows.jsonl")


def test_a_hub_id_stays_a_hub_id() -> None:
    assert load_config("quickstart", "data.path=nguha/legalbench").data.path == "nguha/legalbench"


def test_data_path_replaces_the_whole_data_set() -> None:
    config = load_config("quickstart", "data.path=mine.jsonl")
    assert config.data.test_path is None and config.data.validation_path is None
    assert config.data.prompt is None and config.data.format is DataFormat.auto
    kept = load_config("quickstart", "data.path=mine.jsonl", "data.test_path=test.jsonl")
    assert kept.data.test_path == str(Path.cwd() / "test.jsonl")


@pytest.mark.slow
def test_lists_with_and_without_brackets() -> None:
    for value in ("safetensors", "[safetensors]"):
        assert load_config("quickstart", f"export.formats={value}").export.formats == [ExportFormat.safetensors]
    assert load_config("quickstart", "export.formats=[]").export.formats == []
    assert load_config("quickstart", "evaluation.metrics=auto").evaluation.metrics == ["auto"]
    metrics = load_config("quickstart", "evaluation.metrics=[bits_per_byte,exact_match]").evaluation.metrics
    assert metrics == ["bits_per_byte", "exact_match"]


MISTAKES = {
    "training.lerning_rate=1": "did you mean 'training.learning_rate'",
    "lerning_rate=1": "there is no such option",
    "learning_rate=1": "did you mean 'training.learning_rate'",
    "+training.foo=1": "training.foo: there is no such option",
    "++training.lerning_rate=1": "did you mean 'training.learning_rate'",
    "training.max_steps=abc": "'abc' is not a whole number",
    "training.max_steps=1.5": "'1.5' is not a whole number",
    "training.max_steps=0": "less than 1",
    "training.learning_rate=fast": "'fast' is not a number",
    "training.learning_rate=-1": "not a positive number",
    "training.packing=maybe": "'maybe' is not true or false",
    "model=embeded": "did you mean 'embedded'",
    "model=/tmp/llama": "model=local model.path=/tmp/llama",
    "adapter=./mine": "adapter.path=./mine",
    "quantization=nf5": "did you mean 'nf4'",
    "quantization.method=nf5": "did you mean 'nf4'",
    "data.format=alpacca": "did you mean 'alpaca'",
    "export.formats=[safetensor]": "did you mean 'safetensors'",
    "evaluation.metrics=[accuracy]": "'accuracy' is unknown",
    "adapter.rank=0": "less than 1",
    "adapter.target_modules=[]": "nothing would be trained",
    "training.max_length=100000": "more than the model's context",
    "seed=-1": "seed: -1",
    "model=local": "model.path",
}


@pytest.mark.parametrize(("word", "message"), MISTAKES.items())
def test_mistakes_are_answered_in_one_line(word: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("quickstart", word)
    assert message.lower() in str(caught.value).lower()
    assert "\n" not in str(caught.value)


def test_all_mistakes_are_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("quickstart", "training.lerning_rate=1", "model=embeded", "seed=x")
    assert all(word in str(caught.value) for word in ("lerning_rate", "embeded", "seed"))
    with pytest.raises(ConfigError) as caught:
        load_config("quickstart", "adapter.rank=0", "training.num_epochs=-1", "data.test_share=2")
    assert all(key in str(caught.value) for key in ("adapter.rank", "training.num_epochs", "data.test_share"))


def test_half_a_mapping_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"data.completion: not set"):
        load_config("quickstart", "data.path=rows.csv", "data.prompt={x}")


def test_pissa_on_nf4_names_the_alternative() -> None:
    with pytest.raises(ConfigError, match="quantization=none"):
        load_config("legal_qlora", "model=embedded", "adapter=pissa")


def test_an_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(RecipeNotFound, match="legal_qlora"):
        load_config("legal_qlra")


def test_a_users_own_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "recipes"
    folder.mkdir()
    (tmp_path / "rows.jsonl").write_text("{}")
    recipe = "# Mine\ndefaults:\n  - override /model: embedded\ndata:\n  path: rows.jsonl\nseed: 7\n"
    (folder / "mine.yaml").write_text(recipe)
    monkeypatch.setenv("FINETUNE_RECIPES", str(folder))
    config = load_config("mine")
    assert config.seed == 7 and config.data.path == str(tmp_path / "rows.jsonl")
    assert config.model.name == "embedded" and "mine" in list_recipes()
    assert load_config(str(folder / "mine.yaml")).recipe == "mine"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("training:\n  lerning_rate: 1\n", "training.lerning_rate"),
        ("training:\n  max_steps: abc\n", "training.max_steps"),
        ("training: [", "not valid YAML"),
        ("- a\n", "must be a mapping"),
        ("defaults:\n  - override /model: nope\n", "nope"),
        ("data:\n  _target_: os.system\n", "_target_"),
    ],
)
def test_mistakes_in_a_recipe(text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad.yaml").write_text(text)
    monkeypatch.setenv("FINETUNE_RECIPES", str(tmp_path))
    with pytest.raises(ConfigError) as caught:
        load_config("bad")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_local_model_is_described_by_its_own_config(tiny_model_dir: Path) -> None:
    config = load_config(None, "model=local", f"model.path={tiny_model_dir}", "data=legal")
    assert config.model.shape is not None and config.model.shape.hidden_size == 64
    assert config.model.context_length == 512
    assert 0 < config.training.learning_rate <= 5e-3
    assert config.output_dir == "outputs/custom"


def test_every_option_has_a_docstring() -> None:
    folder = Path(__file__).parent.parent / "finetune" / "config"
    source = [line for path in folder.glob("*.py") for line in path.read_text(encoding="utf-8").splitlines()]
    for key in schema_types():
        name = key.rpartition(".")[2]
        places = [number for number, line in enumerate(source) if line.startswith(f"    {name}: ")]
        assert places, key
        sections = (
            "model",
            "data",
            "adapter",
            "quantization",
            "training",
            "evaluation",
            "export",
            "tracking",
            "plan",
            "report",
        )
        if key not in sections:
            assert any(source[number + 1].strip().startswith('"""') for number in places), f"{key} has no docstring"


def test_every_option_is_read_somewhere() -> None:
    package = Path(__file__).parent.parent / "finetune"
    schema_files = [path for path in (package / "config").glob("*.py") if path.name != "run.py"]
    files = [path for path in package.rglob("*.py") if path.parent.name != "config"]
    code = "\n".join(path.read_text(encoding="utf-8") for path in files)
    schema = "\n".join(path.read_text(encoding="utf-8") for path in schema_files)
    unread = [
        key
        for key in schema_types()
        if f".{key.rpartition('.')[2]}" not in code and f'"{key.rpartition(".")[2]}"' not in code + schema
    ]
    # What a plan of a run's memory and the model card will need is kept although only compared and printed now.
    assert not unread, unread
