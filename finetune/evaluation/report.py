"""The report page and the model card of a run, from the run folder's files alone; the run and report jobs write them.

Whatever text comes from data, configuration or file names is escaped; the page loads nothing.
"""

import functools
import json
import re
from pathlib import Path

import jinja2
import yaml

from finetune.data.privacy import NOT_FOUND
from finetune.evaluation import report_facts as facts
from finetune.evaluation import report_figures as figures
from finetune.evaluation import wording
from finetune.evaluation.figure import page_styles
from finetune.evaluation.report_examples import example_rows
from finetune.evaluation.report_size import memory_of_run, size_of_data
from finetune.evaluation.run_record import RunRecord, hide_texts, read_run
from finetune.model.data_size import size_facts, size_warnings


def build_report(run_dir: Path, *, examples: bool = True) -> str:
    """Render `report.html`: one self-contained page; any file of the run folder may be missing.

    Without `examples` no text of a row stands on it, nor any name of one.
    """
    record = read_run(run_dir)
    if not examples:
        hide_texts(record)
    size = size_of_data(record)
    return _render(
        "report_page.html",
        record,
        autoescape=True,
        example_titles=wording.EXAMPLE_TITLES,
        verdict_names=wording.VERDICT_NAMES,
        verified=bool(record.verification) and all(map(facts.passed, record.verification.values())),
        subtitle=_subtitle(record),
        styles=page_styles(),
        estimate_figure=figures.estimate_figure(record),
        difference_figures=figures.difference_figures(record),
        calibration_figure=figures.calibration_figure(record),
        margin=_margin(record),
        loss_figure=figures.loss_figure(record),
        memory_figure=memory_of_run(record),
        course_figures=figures.course_figures(record),
        rows_figure=figures.rows_figure(record),
        size_facts=size_facts(size) if size is not None else [],
        size_warnings=list(size_warnings(size)) if size is not None else [],
        flips=facts.flips(record),
        shows_texts=examples,
        examples=example_rows(record),
        rejected=facts.rejected_rows(record.ledger),
        overlaps=facts.overlap_rows(record.ledger),
        lengths=facts.length_bars(record.ledger),
        pii=facts.personal_rows(record.ledger),
        pii_limits=NOT_FOUND,
        verification=facts.verification_rows(record.verification),
        exports=facts.export_rows(record),
        main_metric=_main_metric(record),
        sections=_sections(record),
        versions=list(facts.flat("", record.versions)),
    )


def build_model_card(run_dir: Path, *, merged: bool = False) -> str:
    """Render the run's `README.md`: a model card in Markdown with the metadata that model hubs read.

    `merged` gives the text for the folder of a merged model, whose metadata and verification stand elsewhere. Cards
    are made to be shared: of local paths they name the last part only.
    """
    record = read_run(run_dir)
    size = size_of_data(record)
    path = facts.get(record.config, "model", "path")
    base = Path(str(path)).name if path else facts.get(record.config, "model", "hub_id")
    source = str(facts.get(record.config, "data", "path") or "")
    has_tokenizer = (run_dir / "adapter" / "tokenizer_config.json").is_file()
    metadata = {
        "license": str(facts.get(record.config, "model", "license") or "unknown").lower(),
        "base_model": facts.get(record.config, "model", "hub_id") or facts.get(record.config, "model", "name"),
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["lora", "finetune"],
    }
    return _render(
        "model_card.md",
        record,
        autoescape=False,
        merged=merged,
        exports=facts.export_rows(record),
        main_metric=_main_metric(record),
        size_warnings=list(size_warnings(size)) if size is not None else [],
        data_source=Path(source).name if Path(source).is_absolute() else source,
        metadata=yaml.safe_dump({key: value for key, value in metadata.items() if value}, sort_keys=False).strip(),
        load_from=json.dumps(base),
        tokenizer_from=json.dumps("adapter" if has_tokenizer else base),
        packages=list(facts.flat("", facts.get(record.versions, "packages") or {})),
    )


def _render(template: str, record: RunRecord, *, autoescape: bool, **context: object) -> str:
    return (
        environment(autoescape)
        .get_template(template)
        .render(
            record=record,
            config=record.config,
            explanation=wording.explain(record.result),
            verification_sentence=wording.explain_verification(record.verification),
            method=facts.method(record.config),
            results=facts.result_rows(record),
            contestants=facts.contestants(record),
            training=facts.training_facts(record),
            ledger=facts.ledger_facts(record.ledger),
            **context,
        )
    )


@functools.cache
def environment(autoescape: bool) -> jinja2.Environment:
    """Return what renders the templates beside this file."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=autoescape,
        undefined=jinja2.ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    found.filters["cell"] = _markdown_cell
    return found


def _markdown_cell(value: object) -> str:
    """Keep a value on one line, with no markup of its own; what is missing is unknown."""
    if value is None or isinstance(value, jinja2.Undefined):
        return "unknown"
    return re.sub(r"([\\`*\[\]<>|#])", r"\\\1", " ".join(str(value).split()))


def _subtitle(record: RunRecord) -> str:
    recipe, base = record.config.get("recipe"), facts.get(record.config, "model", "name")
    parts = [f"recipe {recipe}" if recipe else "", f"base model {base}" if base else "", facts.method(record.config)]
    return " · ".join(part for part in parts if part)


def _main_metric(record: RunRecord) -> str:
    return wording.METRIC_NAMES.get(record.result.main_metric, ("",))[0] if record.result else ""


def _margin(record: RunRecord) -> str:
    margin = facts.number(facts.get(record.config, "evaluation", "equivalence_margin"))
    return "" if margin is None else f"{100 * margin:g} percentage points, or {margin:g} bits per byte"


def _sections(record: RunRecord) -> list[tuple[str, list[tuple[str, str]]]]:
    """The configuration by section; single values stand under `run`."""
    single = {key: value for key, value in record.config.items() if not isinstance(value, dict)}
    nested = {key: value for key, value in record.config.items() if isinstance(value, dict)}
    return [(name, list(facts.flat("", values))) for name, values in ({"run": single} | nested).items() if values]
