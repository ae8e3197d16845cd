"""The licence gate: whether a base model may be used as the run declares, and the line that says so.

Called by the jobs before anything is downloaded, by `model.hub` and by the model card.
"""

import logging
import re
from pathlib import Path

from finetune.config import CommercialUse, ModelConfig, Use
from finetune.errors import ConfigError

logger = logging.getLogger(__name__)

NON_COMMERCIAL = re.compile(
    r"(?<![a-z])(nc|mrl|mnpl|msrla|amlr)(?![a-z])|non[-_ ]?(commercial|production)|research", re.IGNORECASE
)
"""Licence names that exclude commercial use: cc-by-nc-*, other-nc, qwen-research, Mistral's MRL and MNPL, …"""
OPEN = re.compile(
    r"(apache|mit|bsd|isc|unlicense|cc0|cc-by-\d|cc-by-sa-\d|cdla-permissive|openmdw|wtfpl|zlib)\b.*", re.IGNORECASE
)
CONDITIONS = {
    "llama": (
        "show 'Built with Llama', begin the tuned model's name with 'Llama', keep to the acceptable-use policy; "
        "above 700 million monthly users ask Meta"
    ),
    "gemma": "pass on Google's terms and its prohibited-use policy with the tuned model",
    "falcon": "keep to TII's acceptable-use policy and credit TII",
    "tii": "keep to TII's acceptable-use policy and credit TII",
    "qwen": "above 100 million monthly users ask Alibaba Cloud",
    "openrail": "pass on the use restrictions with the tuned model",
}
"""What a conditional licence asks for, by a word in its name."""


def check_license(model: ModelConfig, use: Use) -> None:
    """Refuse a commercial run on a model whose licence excludes it; an unknown licence is warned of.

    Raises:
        ConfigError: `use` is commercial and the licence forbids that.
    """
    if use is not Use.commercial:
        return
    name = declared_license(model)
    if model.commercial_use is CommercialUse.forbidden or NON_COMMERCIAL.search(name):
        raise ConfigError(
            f"use=commercial: the licence of {_who(model)} ({_licence(model, name)}) forbids commercial use; choose "
            "another model, or use=research. If its owner gave you other terms, name them: "
            "model.license=… model.commercial_use=allowed"
        )
    if model.commercial_use is CommercialUse.unknown and not OPEN.fullmatch(name) and not _condition(name):
        logger.warning(
            "The licence of %s is not known to allow commercial use (%s): read it, then set model.license and "
            "model.commercial_use=allowed|conditional|forbidden.",
            _who(model),
            _licence(model, name),
        )


def license_notice(model: ModelConfig) -> str:
    """Return one line on the licence, for the log before the first download and for the model card."""
    name = declared_license(model)
    text = f"{_who(model)}: licence {_licence(model, name)}"
    verdict = model.commercial_use
    if verdict is CommercialUse.forbidden or NON_COMMERCIAL.search(name):
        text += "; commercial use is forbidden"
    elif verdict is CommercialUse.conditional:
        text += f"; commercial use has conditions: {_condition(name) or 'read its terms'}"
    elif verdict is CommercialUse.allowed or OPEN.fullmatch(name):
        text += "; commercial use is allowed"
    elif _condition(name):
        text += f"; commercial use has conditions: {_condition(name)}"
    else:
        text += "; whether commercial use is allowed is not known"
    if model.gated and model.path is None:
        text += f"; accept it first at https://huggingface.co/{model.hub_id}"
    return text


def declared_license(model: ModelConfig) -> str:
    """Return `model.license`, or where that is unknown what the README.md of a local folder declares."""
    if model.path is None or model.license.lower() not in ("", "unknown", "other"):
        return model.license
    card = _front_matter(Path(model.path).expanduser() / "README.md")
    declared = card.get("license", "")
    if declared in ("", "other"):
        declared = card.get("license_name", declared)
    return declared or model.license


def _front_matter(path: Path) -> dict[str, str]:
    """Read the plain `key: value` lines (or a list's first entry) between the `---` lines that open a model card."""
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8", errors="replace").lstrip("\ufeff").splitlines()
    if not lines or lines[0].strip() != "---":
        return {}
    values: dict[str, str] = {}
    key = ""
    for line in lines[1:]:
        if line.strip() == "---":
            return values
        if match := re.match(r"([\w-]+):\s*(.*)", line):
            key = match[1]
            values[key] = _scalar(match[2])
        elif (match := re.match(r"\s*-\s+(.*)", line)) and key and not values[key]:
            values[key] = _scalar(match[1])
    return {}


def _scalar(text: str) -> str:
    return re.sub(r"(^|\s)#.*", "", text).strip().strip("[]").split(",")[0].strip().strip("'\"")


def _who(model: ModelConfig) -> str:
    """Name the model without the folders above a local one, since a model card is published."""
    source = Path(model.path).name if model.path is not None else model.hub_id
    return model.name if source in (None, "", model.name) else f"{model.name} ({source})"


def _licence(model: ModelConfig, name: str) -> str:
    return f"{name}, {model.license_url}" if model.license_url else name


def _condition(name: str) -> str:
    return next((text for word, text in CONDITIONS.items() if word in name.lower()), "")
