"""The training text: its sources with their shares, and the documents held out of each. Standard library only."""

import json
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HELD_OUT_SHARE = 0.02

Document = str | list[dict[str, str]]
"""Plain text, or a chat as a list of messages."""


@dataclass(frozen=True)
class Source:
    """One kind of training text."""

    name: str
    domain: str
    share: float
    """Share of all training tokens."""
    documents: Sequence[Document]


def read_contracts(shared: Path) -> list[str]:
    return [path.read_text(encoding="utf-8") for path in sorted((shared / "legal/cuad/contracts").glob("*.txt"))]


def read_licences() -> list[str]:
    """Python's licence and those of the system's common licences whose file names have no dot."""
    folders = [Path("/usr/share/common-licenses"), Path(os.__file__).parent]
    paths = [
        path for folder in folders for path in sorted(folder.glob("*")) if path.is_file() and not path.is_symlink()
    ]
    return [
        path.read_text(encoding="utf-8", errors="ignore") for path in paths if not path.suffix or "LICENSE" in path.name
    ]


def read_standard_library() -> list[str]:
    """Module sources without tests and character tables, and the language reference's topics."""
    from pydoc_data.topics import topics

    root = Path(os.__file__).parent
    skipped = {
        "site-packages",
        "test",
        "tests",
        "idle_test",
        "encodings",
        "pydoc_data",
        "turtledemo",
        "lib2to3",
        "distutils",
    }
    modules = [path for path in sorted(root.rglob("*.py")) if not skipped & set(path.relative_to(root).parts)]
    modules = [path for path in modules if not path.name.startswith("_sysconfigdata")]
    return [path.read_text(encoding="utf-8", errors="ignore") for path in modules] + [
        topics[key] for key in sorted(topics)
    ]


def chat(question: str, answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question.strip()}, {"role": "assistant", "content": answer.strip()}]


def read_medical(shared: Path) -> list[list[dict[str, str]]]:
    """The first half only: the second stays unseen, for the project's own tests."""
    lines = (shared / "medical/medquad.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines[: len(lines) // 2]]
    return [chat(row["question"], row["answer"]) for row in rows if row["question"] and row["answer"]]


def read_code_instructions(shared: Path) -> list[list[dict[str, str]]]:
    rows = json.loads((shared / "code/codegen_instruct.json").read_text(encoding="utf-8"))
    return [chat(f"{row['instruction']}\n{row['input']}", row["response"]) for row in rows if row["response"]]


def read_sources(shared: Path) -> list[Source]:
    return [
        Source("contracts", "law", 0.355, read_contracts(shared)),
        Source("licences", "law", 0.015, read_licences()),
        Source("medical", "medicine", 0.27, read_medical(shared)),
        Source("code_instructions", "code", 0.13, read_code_instructions(shared)),
        Source("standard_library", "code", 0.23, read_standard_library()),
    ]


def split_held_out(source: Source) -> tuple[list, list]:
    """Drops exact repeats, then sets whole documents aside: (training, held out)."""
    unique = list({json.dumps(document): document for document in source.documents}.values())
    random.Random(f"held out {source.name}").shuffle(unique)
    count = max(2, round(len(unique) * HELD_OUT_SHARE))
    return unique[count:], unique[:count]


def plain_text(document: Document) -> str:
    return document if isinstance(document, str) else "\n".join(message["content"] for message in document)
