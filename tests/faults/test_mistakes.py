"""Bar R11: every key of every recipe, mistyped or given a wrong value, ends in one line before a model is loaded."""

import random
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, get_args

import pytest
import yaml

from finetune import load_config
from finetune.errors import ConfigError
from finetune.overrides import GROUPS, check, group_options, parse, schema_types
from finetune.recipes import list_recipes

pytestmark = pytest.mark.bar("R11")

RECIPES = sorted(list_recipes())
OPTIONS = {key: kind for key, kind in schema_types().items() if key not in GROUPS}


def mistyped(name: str, generator: random.Random) -> str:
    """Double a letter, leave one out, or swap two neighbours."""
    place = generator.randrange(1, len(name) - 1)
    words = [
        name[:place] + name[place] + name[place:],
        name[:place] + name[place + 1 :],
        name[:place] + name[place + 1] + name[place] + name[place + 2 :],
    ]
    return next(word for word in generator.sample(words, 3) if word != name)


def places(content: dict[str, Any], *above: str) -> Iterator[tuple[str, ...]]:
    """Return the path of every key of a recipe, sections included."""
    for key, value in content.items():
        if key != "defaults":
            yield (*above, key)
            if isinstance(value, dict):
                yield from places(value, *above, key)


def refused(name: str, content: Any, folder: Path) -> str:
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    with pytest.raises(ConfigError) as caught:
        load_config(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_mistyped_key_of_a_recipe_names_the_right_one(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, generator = list_recipes()[recipe].read_text(encoding="utf-8"), random.Random(recipe)
    monkeypatch.setenv("FINETUNE_RECIPES", str(tmp_path))
    for number, place in enumerate(places(yaml.safe_load(text))):
        content = yaml.safe_load(text)
        section = content
        for key in place[:-1]:
            section = section[key]
        wrong = mistyped(place[-1], generator)
        section[wrong] = section.pop(place[-1])
        said = refused(f"key{number}", content, tmp_path)
        assert wrong in said and f"{'.'.join(place)}'" in said, said
    for number, default in enumerate(yaml.safe_load(text)["defaults"]):
        (group, choice), content = next(iter(default.items())), yaml.safe_load(text)
        content["defaults"][number] = {group: mistyped(choice, generator)}
        assert choice in refused(f"group{number}", content, tmp_path)


@pytest.mark.parametrize("key", OPTIONS)
def test_every_mistyped_option_of_the_command_line_names_the_right_one(key: str) -> None:
    section, _, name = key.rpartition(".")
    wrong = f"{section}.{mistyped(name, random.Random(key))}".lstrip(".")
    with pytest.raises(ConfigError) as caught:
        check(parse([f"{wrong}=1"]))
    assert wrong in str(caught.value) and f"'{key}'" in str(caught.value)


@pytest.mark.parametrize("group", GROUPS)
def test_every_mistyped_name_of_a_group_names_the_right_one(group: str) -> None:
    for choice in group_options(group):
        wrong = mistyped(choice, random.Random(choice))
        if wrong not in group_options(group):
            with pytest.raises(ConfigError, match=f"(?i)did you mean .*'{choice}'"):
                check(parse([f"{group}={wrong}"]))


def plain_kinds(kind: Any) -> list[Any]:
    return [part for part in (get_args(kind) if isinstance(kind, UnionType) else [kind]) if part is not type(None)]


TYPED = {key: plain_kinds(kind)[0] for key, kind in OPTIONS.items() if plain_kinds(kind)[0] in (bool, int, float)}
CHOSEN = {key: plain_kinds(kind)[0] for key, kind in OPTIONS.items() if isinstance(plain_kinds(kind)[0], type)}
CHOSEN = {key: kind for key, kind in CHOSEN.items() if issubclass(kind, Enum)}


@pytest.mark.parametrize("key", [*TYPED, *CHOSEN])
def test_every_value_of_a_wrong_type_is_named_with_what_is_wanted(key: str) -> None:
    value = mistyped(next(iter(CHOSEN[key])).name, random.Random(key)) if key in CHOSEN else "abc"
    with pytest.raises(ConfigError) as caught:
        check(parse([f"{key}={value}"]))
    wanted = "Did you mean" if key in CHOSEN else "is not "
    assert key in str(caught.value) and value in str(caught.value) and wanted in str(caught.value)
