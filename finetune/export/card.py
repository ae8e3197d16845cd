"""The front matter of an exported folder's README.md, as model hubs read it; the text comes from the caller."""

import json
from collections.abc import Sequence

HUB_LICENSES = frozenset(
    {
        "apache-2.0",
        "mit",
        "bsd-2-clause",
        "bsd-3-clause",
        "cc0-1.0",
        "cc-by-4.0",
        "cc-by-sa-4.0",
        "cc-by-nc-4.0",
        "cc-by-nc-sa-4.0",
        "gpl-3.0",
        "agpl-3.0",
        "openrail",
        "bigscience-openrail-m",
        "gemma",
        "llama2",
        "llama3",
        "llama3.1",
        "llama3.2",
        "llama3.3",
        "unknown",
    }
)
"""Identifiers that the Hugging Face hub knows (hub documentation, "Licenses"); others are named under `other`."""


def export_card(
    body: str,
    *,
    license_name: str,
    license_url: str | None = None,
    base_model: str | None = None,
    tags: Sequence[str] = (),
) -> str:
    """Put YAML front matter before `body`.

    `base_model` is a hub id; None for a model that is known by a local folder only, whose path is nobody's business.
    """
    identifier = license_name.lower()
    lines = ["library_name: transformers", "pipeline_tag: text-generation"]
    if identifier in HUB_LICENSES:
        lines.append(f"license: {identifier}")
    else:
        lines += ["license: other", f"license_name: {_quoted(license_name)}"]
        if license_url is not None:
            lines.append(f"license_link: {_quoted(license_url)}")
    if base_model is not None:
        lines.append(f"base_model: {_quoted(base_model)}")
    lines += ["tags:", *(f"- {_quoted(tag)}" for tag in ("finetune", *tags))]
    return "\n".join(["---", *lines, "---", "", body.strip(), ""])


def _quoted(text: str) -> str:
    """Write text as a YAML scalar; every JSON string is one (YAML 1.2, section 1.3)."""
    return json.dumps(text, ensure_ascii=False)
