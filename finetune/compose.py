"""From recipe and overrides to one typed `RunConfig`; called by `__main__` and by notebooks."""

import functools
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from finetune import overrides as words
from finetune.config import MISSING, DataConfig, RunConfig, SourceConfig
from finetune.errors import ConfigError, did_you_mean, one_line
from finetune.log import is_logging_set_up, quiet_libraries, set_up_logging
from finetune.model.shape import context_of, read_model_config, recommend, shape_of
from finetune.recipe_content import check_references
from finetune.recipes import bundled_root, find_recipe, register_recipe
from finetune.secrets import secret_keys

PATH_KEYS = ("model.path", "data.path", "data.validation_path", "data.test_path", "adapter.path", "data.cache_dir")
DATA_SET_KEYS = ("validation_path", "test_path", "format", "prompt", "completion", "system", "text_column", "group")
"""What describes the rows at data.path: replaced together with it."""


def load_config(recipe: str | None = None, *overrides: str) -> RunConfig:
    """Compose a recipe and overrides, as the command line does: `load_config("legal_qlora", "model=embedded")`.

    Raises:
        ConfigError: an unknown recipe, group, key or a value that cannot work, with the nearest names.
    """
    quiet_libraries()
    if not is_logging_set_up():
        set_up_logging()
    from hydra import compose, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    typed = [*([f"recipe={recipe}"] if recipe else []), *overrides]
    prepared = prepare_overrides(typed)
    try:
        GlobalHydra.instance().clear()
        with initialize_config_module("finetune.conf", version_base="1.3"):
            composed = compose("run", overrides=prepared)
    except ConfigError:
        raise
    except Exception as error:
        raise explain(error) from error
    return finish(composed, typed)


def prepare_overrides(typed: Sequence[str], *, sweep: bool = False) -> list[str]:
    """Check the words of a command line, register its recipe, and return words that Hydra takes.

    Raises:
        ConfigError: naming every mistake.
    """
    _register_schema()
    checked = words.check(words.parse(typed), sweep=sweep)
    keys = {override.key for override in checked}
    result: list[str] = []
    for override in checked:
        if override.key == "recipe":
            names = override.value.split(",") if sweep else [override.value]
            override = words.Override("", "recipe", ",".join(register_recipe(find_recipe(name)) for name in names))
        if override.key == "data.sources":
            override = words.Override("", "data.sources", _sources_value(override.value))
        result.append(str(override))
    own_rows = {"data.path": "data.sources=[]", "data.sources": "data.path=''"}
    for key, other in own_rows.items():
        if key in keys:
            result += [_reset(name) for name in DATA_SET_KEYS if f"data.{name}" not in keys]
            result += [other] if other.partition("=")[0] not in keys else []
    return result


def _sources_value(value: str) -> str:
    """Write a list of sources, each a path or `{path: …, weight: …}`, in Hydra's grammar.

    Raises:
        ConfigError: it is no such list.
    """
    import yaml

    shown = "data.sources=[a.jsonl,b.csv] or data.sources=[{path: a.jsonl, weight: 2},{path: b.csv}]"
    try:
        found = yaml.safe_load(value)
    except yaml.YAMLError:
        found = None
    if not isinstance(found, list):
        raise ConfigError(f"data.sources: {value!r} is no list of sources. Write {shown}")
    sources: list[str] = []
    for source in found:
        entry = {"path": source} if isinstance(source, str) else source
        if not isinstance(entry, dict) or not entry.get("path"):
            raise ConfigError(f"data.sources: {source!r} names no path. Write {shown}")
        for name in entry:
            if name not in SourceConfig.__dataclass_fields__:
                hint = did_you_mean(str(name), SourceConfig.__dataclass_fields__)
                raise ConfigError(f"data.sources: a source has no option {name!r}.{hint}")
        sources.append("{" + ",".join(f"{name}:{_quoted(inner)}" for name, inner in entry.items()) + "}")
    return f"[{','.join(sources)}]"


def _quoted(value: object) -> str:
    if not isinstance(value, str):
        return "null" if value is None else str(value)
    return words.quote(value)


def _reset(name: str) -> str:
    default = DataConfig.__dataclass_fields__[name].default
    return f"data.{name}={'null' if default is None else default.name}"


@functools.cache
def _register_schema() -> None:
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name="schema", node=RunConfig)


def finish(composed: Any, typed: Sequence[str], *, needs_weights: bool = True) -> RunConfig:
    """Turn Hydra's composed configuration into a `RunConfig`: paths made absolute, a local model's sizes filled in.

    `needs_weights` is false for a plan, which a folder with config.json alone serves.

    Raises:
        ConfigError, ModelError: a value that cannot work.
    """
    from omegaconf import OmegaConf, open_dict

    parsed = {override.key: override.value for override in words.parse([word for word in typed if "=" in word])}
    try:
        with open_dict(composed):
            composed.pop("hydra", None)
        check_references(OmegaConf.to_container(composed, resolve=False))
        recipe_path = find_recipe(parsed["recipe"]) if "recipe" in parsed else None
        for key in PATH_KEYS:
            value = OmegaConf.select(composed, key, throw_on_missing=False)
            if isinstance(value, str) and value not in (MISSING, ""):
                if key == "data.cache_dir" and key in parsed:
                    located = str(Path(value).expanduser().absolute())
                else:
                    located = _from_here(value) if key in parsed else _beside_recipe(value, recipe_path)
                OmegaConf.update(composed, key, located)
        _locate_lists(composed, parsed, recipe_path)
        _require(composed)
        _fill_from_folder(composed, needs_weights)
        config = OmegaConf.to_object(composed)
    except ConfigError:
        raise
    except Exception as error:
        raise explain(error) from error
    assert isinstance(config, RunConfig)
    _refuse_secrets(config)
    return config


def _refuse_secrets(config: RunConfig) -> None:
    """The configuration is written to the run folder, which people pass on."""
    keys = list(dict.fromkeys(secret_keys(asdict(config))))
    if keys:
        raise ConfigError(
            f"{', '.join(keys)}: holds a key or a password, which would be written to the run folder; take it out, and "
            "give it by the environment (HF_TOKEN, WANDB_API_KEY) or by the tool's own login (hf auth login)"
        )


def _locate_lists(composed: Any, parsed: dict[str, str], recipe_path: Path | None) -> None:
    """Make the paths in lists absolute: several sources, and benchmark files."""

    def located(key: str, value: str) -> str:
        typed = any(word.startswith(key) for word in parsed)
        return _from_here(value) if typed else _beside_recipe(value, recipe_path)

    for source in composed.data.sources:
        if source.path != MISSING:
            source.path = located("data.sources", source.path)
    paths = [located("data.contamination_paths", path) for path in composed.data.contamination_paths]
    composed.data.contamination_paths = paths


def _require(composed: Any) -> None:
    from omegaconf import OmegaConf

    no_path = OmegaConf.is_missing(composed.model, "path") or composed.model.path is None
    if no_path and composed.model.hub_id is None:
        raise ConfigError("model.path: not set; model=local needs the folder of the base model: model.path=…")
    if OmegaConf.is_missing(composed.data, "path"):
        composed.data.path = ""


def _fill_from_folder(composed: Any, needs_weights: bool) -> None:
    """Derive what a local model's YAML leaves open from its config.json."""
    from omegaconf import OmegaConf

    if composed.model.path is None:
        return
    folder = Path(composed.model.path)
    found = read_model_config(folder, needs_weights=needs_weights)
    shape, context = shape_of(found), context_of(found)
    if composed.model.shape is None:
        composed.model.shape = OmegaConf.structured(shape)
    if OmegaConf.is_missing(composed.model, "context_length"):
        composed.model.context_length = context
    recommended = recommend(shape, composed.model.context_length)
    for name in recommended.__dataclass_fields__:
        if OmegaConf.is_missing(composed.model.recommended, name):
            composed.model.recommended[name] = getattr(recommended, name)


def _from_here(value: str) -> str:
    path = Path(value).expanduser()
    if path.exists() or not _like_hub_id(value):
        return str(path.absolute())
    return value


def _beside_recipe(value: str, recipe_path: Path | None) -> str:
    path = Path(value).expanduser()
    if path.is_absolute():
        return str(path)
    folders = [bundled_root()]
    if recipe_path is not None:
        folders = [recipe_path.parent, recipe_path.parent.parent, *folders]
    for folder in folders:
        if (folder / path).exists():
            return str(folder / path)
    return value if _like_hub_id(value) else str(folders[0] / path)


def _like_hub_id(value: str) -> bool:
    path = Path(value)
    return len(path.parts) == 2 and not path.suffix and not value.startswith((".", "/", "~", "\\"))


def explain(error: Exception) -> ConfigError:
    """Turn an error of Hydra or OmegaConf into one line that names the key and the nearest known one."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, ConfigError):
        return cause
    text = str(cause)
    full_key = next((line.split(":", 1)[1].strip() for line in text.splitlines() if "full_key:" in line), "")
    lines = [line for line in text.splitlines() if not line.startswith("In 'recipe/")] or [type(cause).__name__]
    first_line = lines[0]
    if "'SourceConfig'" in first_line and "not in" in first_line:
        return ConfigError(
            f"{full_key}: there is no such option. Known: {', '.join(SourceConfig.__dataclass_fields__)}"
        )
    if full_key and "not in" in first_line:
        return ConfigError(f"{full_key}: there is no such option.{did_you_mean(full_key, words.schema_types())}")
    if full_key:
        return ConfigError(f"{full_key}: {first_line}")
    return ConfigError(one_line(cause))
