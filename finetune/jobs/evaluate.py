"""Compares base and tuned model on held-out rows: `python -m finetune evaluate recipe=…`; a part of a run."""

import logging

from finetune.config import RunConfig
from finetune.jobs import report, steps
from finetune.jobs.contents import contents_of
from finetune.offline import as_configured
from finetune.records import EvaluationResult
from finetune.run import RunFolder, existing_folder, read_json, refuse_changed_contents, write_json

logger = logging.getLogger(__name__)


@as_configured
def evaluate(config: RunConfig) -> EvaluationResult:
    """Evaluate the adapter of a finished training again, with the present evaluation options.

    Raises:
        RunExists: there is no finished training of this configuration, rows and base model in the run folder.
    """
    rows = steps.check_cheaply(config)
    folder = existing_folder(config)
    loaded = steps.load_tokenizer(config)
    refuse_changed_contents(folder, config, contents_of(config, rows, *loaded))
    result = measure(config, rows, steps.load_tuned(config, folder.adapter, loaded), folder)
    report.report_part(config, folder)
    return result


def evaluate_part(config: RunConfig, rows: steps.Rows, tuned: steps.Tuned, folder: RunFolder) -> EvaluationResult:
    """Measure, or read what was measured before (`resume=true`)."""
    from finetune.evaluation.summary import summary_from_json

    if folder.summary.is_file():
        logger.info("evaluate: already done; see %s", folder.summary)
        return summary_from_json(read_json(folder.summary))
    return measure(config, rows, tuned, folder)


def measure(config: RunConfig, rows: steps.Rows, tuned: steps.Tuned, folder: RunFolder) -> EvaluationResult:
    """Score base and tuned on the test rows, write the item table and the summary made from it."""
    from finetune.evaluation.evaluate import evaluate as compare_models
    from finetune.evaluation.examples import choose_examples
    from finetune.evaluation.summary import result_lines, summary_to_json, write_items

    items, result = compare_models(
        {"base": tuned.base, "tuned": tuned.tuned},
        tuned.tokenizer,
        rows.splits.test,
        config.evaluation,
        config.seed,
        max_length=config.model.context_length,
    )
    folder.items.parent.mkdir(parents=True, exist_ok=True)
    write_items(folder.items, items)
    if config.report.examples:
        _keep_examples(config, rows, tuned, folder, choose_examples(items, result.main_metric))
    else:
        folder.examples.unlink(missing_ok=True)
    write_json(folder.summary, summary_to_json(result))  # the last: where it stands, the evaluation is done
    for line in result_lines(result):
        logger.info("%s", line)
    return result


def _keep_examples(
    config: RunConfig, rows: steps.Rows, tuned: steps.Tuned, folder: RunFolder, chosen: dict[str, str]
) -> None:
    """Let base and tuned model answer a few test questions in words, for the report."""
    from finetune.evaluation.example_answers import add_answers
    from finetune.evaluation.examples import new_examples, write_examples

    examples = new_examples(chosen, rows.splits.test)
    for name, opened in (("base", tuned.base), ("tuned", tuned.tuned)):
        with opened() as model:
            add_answers(
                examples,
                name,
                model,
                tuned.tokenizer,
                rows.splits.test,
                config.evaluation,
                max_length=config.model.context_length,
            )
    write_examples(folder.examples, examples)
