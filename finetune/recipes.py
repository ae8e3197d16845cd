"""Finds recipes: the folder named by FINETUNE_RECIPES, then the project's own; called by `compose` and `__main__`."""

import os
import re
from pathlib import Path

from finetune.errors import ConfigError, RecipeNotFound, did_you_mean
from finetune.recipe_content import read_recipe

USER_FOLDER_VARIABLE = "FINETUNE_RECIPES"
_NAME = re.compile(r"\w[\w.-]*")


def bundled_root() -> Path:
    """Return the folder that holds `recipes/`, `data/` and `models/`: inside a wheel, else the checkout."""
    package = Path(__file__).resolve().parent
    bundled = package / "_bundled"
    return bundled if bundled.is_dir() else package.parent


def recipe_folders() -> list[Path]:
    """Return the folders searched for recipes, the user's own first.

    Raises:
        ConfigError: FINETUNE_RECIPES names no folder.
    """
    folders = [bundled_root() / "recipes"]
    own = os.environ.get(USER_FOLDER_VARIABLE)
    if own:
        folder = Path(own).expanduser()
        if not folder.is_dir():
            raise ConfigError(
                f"{USER_FOLDER_VARIABLE}: {own!r} is no folder; point it at a folder of recipe YAML files"
            )
        folders.insert(0, folder.resolve())
    return folders


def list_recipes() -> dict[str, Path]:
    """Return all recipes by name, sorted; a user's recipe hides one of the project's of the same name."""
    found: dict[str, Path] = {}
    for folder in recipe_folders():
        for path in sorted(folder.glob("*.yaml")):
            found.setdefault(path.stem, path)
    return dict(sorted(found.items()))


def find_recipe(name: str) -> Path:
    """Return the YAML file of a recipe, given its name or the path of a .yaml file.

    Raises:
        RecipeNotFound: with the nearest names.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name).expanduser()
        if not path.is_file():
            raise RecipeNotFound(f"recipe={name}: there is no such file")
        return path.resolve()
    recipes = list_recipes()
    if name not in recipes:
        raise RecipeNotFound(f"recipe={name}: there is no such recipe.{did_you_mean(name, recipes)}")
    return recipes[name]


def recipe_summary(path: Path) -> str:
    """Return the first comment line of a recipe, which says what it is for."""
    with path.open(encoding="utf-8", errors="replace") as file:
        beginning = file.read(10_000)
    for line in beginning.splitlines():
        if line.startswith("#"):
            return "".join(character for character in line.lstrip("# ").rstrip() if character.isprintable())
    return ""


def register_recipe(path: Path) -> str:
    """Make one recipe known to Hydra as option of the group `recipe`; returns its name.

    Raises:
        ConfigError: the file is no recipe (see `read_recipe`), or its name would mean something to Hydra.
    """
    from hydra.core.config_store import ConfigStore

    if not _NAME.fullmatch(path.stem):
        raise ConfigError(f"recipe {path.name!r}: rename the file; letters, digits, '.', '_' and '-' alone are taken")
    content = read_recipe(path)
    content["recipe"] = path.stem
    ConfigStore.instance().store(group="recipe", name=path.stem, node=content, package="_global_")
    return path.stem
