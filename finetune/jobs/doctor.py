"""`python -m finetune doctor [recipe=…]`: looks at this machine and the installation; changes and sends nothing."""

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from finetune.config import ModelConfig, RunConfig
from finetune.diagnosis import backends, hub, machine, packages
from finetune.diagnosis.finding import Check, Finding, Level, run_check
from finetune.errors import FinetuneError
from finetune.offline import as_configured

_ANY_MODEL = ModelConfig(name="any", path=".", context_length=8, needs_gpu=False)
"""Stands for the model where no recipe is named: what the machine does by itself."""


@as_configured
def doctor(config: RunConfig | None = None) -> None:
    """Print one line for each finding: ok, warning or error, what was found, and the cure.

    With a recipe (or `data.path=…`) it also checks that this run could start here, with and without network.

    Raises:
        FinetuneError: an error was found.
    """
    counts: Counter[Level] = Counter()
    for finding in _findings(config):
        counts[finding.level] += 1
        print(finding.line(), flush=True)
    print("\n" + ", ".join(f"{level}: {counts[level]}" for level in Level))
    if counts[Level.error]:
        raise FinetuneError(f"doctor: errors found: {counts[Level.error]}; the lines above say what to do")


def _findings(config: RunConfig | None) -> Iterator[Finding]:
    wanted = config if config is not None and (config.data.path or config.data.sources) else None
    for subject, check in _checks(config, wanted):
        yield from run_check(subject, check)


def _checks(config: RunConfig | None, wanted: RunConfig | None) -> Iterator[tuple[str, Check]]:
    output_dir = Path("outputs" if config is None else config.output_dir)
    yield "Python", packages.check_python
    yield "packages", packages.check_required
    yield "lock", packages.check_lock
    yield "packages", packages.check_conflicts
    yield "packages", packages.check_known_trouble
    yield "disk", partial(machine.check_disk, output_dir, wanted and hub.num_model_bytes(wanted.model))
    yield "memory", machine.check_memory
    yield "processor", machine.check_threads
    yield "sandbox", machine.check_sandbox
    yield "environment", hub.check_environment
    yield "hub cache", hub.check_cache
    if wanted is not None:
        yield "recipe", partial(_check_recipe, wanted)
        yield "base model", partial(hub.check_base_model, wanted.model, offline=wanted.offline)
        yield "data", partial(hub.check_data_sets, _data_paths(wanted), offline=wanted.offline)
    yield "llama.cpp", backends.check_llama_cpp
    yield "torch", partial(backends.check_torch, _ANY_MODEL)
    yield "bitsandbytes", partial(backends.check_bitsandbytes, _ANY_MODEL)


def _check_recipe(config: RunConfig) -> Iterator[Finding]:
    """Check what a run checks before anything else: GPU, licence, adapter folder, formats, tracker."""
    from finetune.jobs.steps import check_model, check_tracker

    check_model(config)
    check_tracker(config.tracking)
    yield Finding(Level.ok, "recipe", f"{config.recipe} with model {config.model.name} can run here")


def _data_paths(config: RunConfig) -> list[str]:
    data = config.data
    named = [data.path, data.validation_path, data.test_path, *(source.path for source in data.sources)]
    return [path for path in named if path]
