"""Looks through the known base models for the largest one that fits where the chosen one does not; used by `plan`."""

from dataclasses import replace
from pathlib import Path

from finetune.config import RunConfig, ShapeConfig
from finetune.model.planning import Setting
from finetune.model.shape import num_parameters

_FOLDER = Path(__file__).resolve().parent.parent / "conf" / "model"


def known_shapes() -> dict[str, ShapeConfig]:
    """Return the shapes that the models' YAML files name."""
    import yaml

    contents = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(_FOLDER.glob("*.yaml"))}
    return {name: ShapeConfig(**found["shape"]) for name, found in contents.items() if found["shape"]}


def smaller_models(config: RunConfig, setting: Setting) -> str:
    """Name the largest model below the chosen one that fits with the same settings, or nothing."""
    here = num_parameters(setting.work.shape)
    fitting: dict[str, Setting] = {}
    for name, shape in known_shapes().items():
        layers = shape.num_layers if setting.recomputes else 0
        found = replace(setting, work=replace(setting.work, shape=shape, recomputed_layers=layers))
        if name != config.model.name and num_parameters(shape) < here and found.fits:
            fitting[name] = found
    if not fitting:
        return ""
    name = max(fitting, key=lambda name: num_parameters(fitting[name].work.shape))
    size = num_parameters(fitting[name].work.shape) / 1e9
    return f"model={name}  ({size:.1f} billion weights instead of {here / 1e9:.1f}, {fitting[name].peak / 1e9:.1f} GB)"
