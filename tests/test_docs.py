"""The documentation holds: the generated page is fresh, links resolve, commands compose, examples are what they say."""

import json
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from finetune.__main__ import COMMANDS
from finetune.compose import load_config, prepare_overrides
from finetune.config import CONTENTS, METRICS, DataFormat
from finetune.data.check import REASONS, Ledger
from finetune.evaluation.wording import VERDICT_NAMES
from finetune.overrides import CONF_DIR, GROUPS, schema_types
from finetune.records import Comparison, ItemScore, Verification

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
GENERATED = ROOT / "docs" / "configuration.md"
_COMMAND = re.compile(r"(?:^|\s)(?:scripts/run|-m finetune)(?:\s+(?P<words>.*))?$")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s#]*)(?:#([^)\s]+))?\)")


def blocks(page: Path, language: str) -> list[str]:
    return [body for name, body in _FENCE.findall(page.read_text(encoding="utf-8")) if name == language]


def code_spans(page: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", _FENCE.sub("", page.read_text(encoding="utf-8")))


def find_commands() -> list[str]:
    """Arguments of every `scripts/run …` and `python -m finetune …` in a code block or a code span, each once.

    A command with a placeholder (…) is left out.
    """
    found: dict[str, None] = {}
    for page in PAGES:
        lines = [line for body in blocks(page, "") for line in body.replace("\\\n", " ").splitlines()]
        lines += code_spans(page)
        for line in lines:
            command = " ".join(re.sub(r"\s#\s.*", "", line).split())
            match = _COMMAND.search(command)
            if match and match["words"] and "…" not in command and "..." not in command:
                found[match["words"]] = None
    return list(found)


EXAMPLE_COMMANDS = find_commands()


def anchors(page: Path) -> set[str]:
    """Names that a Markdown viewer gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.fixture
def example_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The recipes that the pages print, as files in the working folder and in FINETUNE_RECIPES."""
    own = next(body for body in blocks(ROOT / "docs" / "recipes.md", "yaml") if body.startswith("# Lease"))
    for name in ("leases", "mine"):
        (tmp_path / f"{name}.yaml").write_text(own, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FINETUNE_RECIPES", str(tmp_path))
    return tmp_path


def test_generated_pages_are_fresh() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "build_docs"), "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_option_and_group_is_on_the_generated_page() -> None:
    """Counted from the live schema, not from its source as the builder does."""
    page = GENERATED.read_text(encoding="utf-8")
    keys = {key for key, kind in schema_types().items() if not str(kind).endswith("Config'>")}
    missing = [key for key in sorted(keys) if f"| `{key}` |" not in page]
    missing += [
        f"{path.parent.name}={path.stem}"
        for path in sorted(CONF_DIR.glob("*/*.yaml"))
        if f"| `{path.parent.name}={path.stem}` |" not in page
    ]
    assert not missing
    assert not re.findall(r"^.*\|\s*\|$", page, re.MULTILINE), "a row without a meaning"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_resolve(page: Path) -> None:
    broken = []
    for target, anchor in _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        if "://" in target:
            continue
        file = page.parent / target if target else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(f"{target}#{anchor}")
    assert not broken


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert not [name for name in sorted(pages) if f"({name})" not in index]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_and_options_exist(page: Path) -> None:
    """Code spans such as `finetune/config.py` and `data.path=…` name things that are there."""
    wrong = []
    for span in code_spans(page):
        path = re.match(r"(?:scripts|docs|finetune|recipes|notebooks|models|tests|benchmarks)/[\w./-]*", span)
        option = re.match(rf"(?P<key>(?:{'|'.join(GROUPS)})\.[a-z_.]+)(?:=|$)", span)
        if path and not (ROOT / path[0]).exists():
            wrong.append(span)
        if option and option["key"] not in (*schema_types(), *CONTENTS):
            wrong.append(span)
    assert not wrong


def test_pages_name_what_the_code_writes() -> None:
    data, folder, evaluation = ((ROOT / "docs" / f"{n}.md").read_text() for n in ("data", "run_folder", "evaluation"))
    assert not [key for key in Ledger().to_json() if f"`{key}`" not in data]
    assert not [reason for reason in REASONS if f"`{reason}`" not in data]
    assert not [member.name for member in DataFormat if member.name != "auto" and f"| `{member.name}` |" not in data]
    assert not [
        field.name for kind in (Verification, ItemScore) for field in fields(kind) if f"`{field.name}`" not in folder
    ]
    assert not [field.name for field in fields(Comparison) if f"`{field.name}`" not in folder]
    assert not [word for word in (*METRICS, *VERDICT_NAMES) if word != "unknown" and f"`{word}`" not in evaluation]


def test_pages_quote_commands() -> None:
    assert len(EXAMPLE_COMMANDS) > 15 and "recipe=legal_qlora model=embedded" in EXAMPLE_COMMANDS


def words_of_adapter(words: list[str]) -> bool:
    """Whether a command exports an adapter, which needs no data."""
    return any(word.startswith("adapter.path=") for word in words)


@pytest.mark.few(4)
@pytest.mark.parametrize("command", EXAMPLE_COMMANDS)
def test_quoted_command_composes(command: str, example_recipes: Path) -> None:
    words = [word for word in shlex.split(command) if word != "--help"]
    if words and "=" not in words[0] and not words[0].startswith("-"):
        assert words.pop(0) in COMMANDS
    if "-m" in words:
        assert prepare_overrides([word for word in words if word != "-m"], sweep=True)
        return
    ready = ["model.path=" + str(ROOT / "models/embedded") if w.startswith("model.path=") else w for w in words]
    if ready:
        config = load_config(None, *ready)
        assert config.data.path or config.data.sources or config.runs or words_of_adapter(ready)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "yaml")], ids=lambda page: page.name)
def test_printed_recipes_compose(page: Path, tmp_path: Path) -> None:
    for number, body in enumerate(blocks(page, "yaml")):
        recipe = tmp_path / f"printed_{number}.yaml"
        recipe.write_text(body, encoding="utf-8")
        config = load_config(str(recipe), "model=embedded")
        sources = [source.path for source in config.data.sources] or [config.data.path]
        assert all(Path(path).is_absolute() and Path(path).suffix for path in sources)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_printed_python_and_json_parse(page: Path) -> None:
    for body in blocks(page, "python"):
        compile(body, page.name, "exec")
    for body in blocks(page, "json"):
        assert all(json.loads(line) for line in body.splitlines())
