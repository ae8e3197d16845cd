"""Says whether a run fits, how long it takes, what it costs: `python -m finetune plan recipe=…`; loads nothing."""

from collections.abc import Iterator

from finetune.config import RunConfig
from finetune.jobs import plan_amounts, plan_text, size_text
from finetune.jobs.plan_models import smaller_models
from finetune.model.cards import find_card, this_machine
from finetune.model.planning import Setting, cures, differences, fastest, shape_for_plan
from finetune.offline import as_configured

FASTER = 1.03
"""A setting is recommended if it is at least so much faster."""


@as_configured
def plan(config: RunConfig) -> Setting:
    """Print what fits, the recommendation, time, cost and disk; a run that does not fit is no failure of the plan.

    Raises:
        ConfigError, ModelError: an unknown card, or a model whose sizes are not known.
    """
    shape = shape_for_plan(config)
    card, num_here = (find_card(config.plan.gpu), 1) if config.plan.gpu else this_machine()
    tokens = plan_amounts.count_tokens(config, shape)
    setting = plan_amounts.setting_with(config, shape, card, num_devices=config.plan.num_gpus, tokens=tokens)
    found = [] if setting.fits else cures(setting)
    shown = found[0] if found else setting
    course = plan_amounts.course_of(config, tokens)
    for block in (
        [*plan_text.heading(config, setting, num_here), *_advice(config, setting, found)],
        plan_text.memory_table(setting),
        plan_text.fits_table(setting, config, course),
        plan_text.time_lines(shown, config, tokens, course),
        plan_text.disk_lines(plan_amounts.disk_of(config, shape)),
    ):
        print("\n".join(block), end="\n\n")
    if counted := list(size_text.size_lines(config, plan_amounts.ledger_of(config))):
        print("\n  ".join(["Is the data enough?", *counted]), end="\n\n")
    return setting


def _advice(config: RunConfig, setting: Setting, found: list[Setting]) -> Iterator[str]:
    if setting.fits:
        yield from _faster(setting, fastest(setting, config.training.batch_tokens) or setting)
        return
    for number, cure in enumerate(found):
        start = "Nearest that fits:" if not number else "              or:"
        yield f"{start} {' '.join(differences(setting, cure))}  ({plan_text.gigabytes(cure.peak)})"
    smaller = smaller_models(config, setting)
    if smaller:
        start = "              or:" if found else "Nearest that fits:"
        yield f"{start} {smaller}"
    elif not found:
        yield "Nothing on this device would do: choose a larger card (plan.gpu=…), or several with plan.sharding=fsdp."


def _faster(setting: Setting, best: Setting) -> Iterator[str]:
    before, after = setting.speed(), best.speed()
    gain = 1.0 if before is None or after is None else after.tokens_per_second / before.tokens_per_second
    words = differences(setting, best)
    if words and gain >= FASTER:
        yield f"Recommended: {' '.join(words)}  ({gain - 1:.0%} faster, {plan_text.gigabytes(best.peak)} at the peak)"
    else:
        yield "Recommended: as it is; no other setting that fits is faster."
