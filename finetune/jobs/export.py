"""Merges, writes and verifies the tuned model: `python -m finetune export recipe=…`; a part of a run."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune.config import ExportFormat, QuantizationMethod, RunConfig
from finetune.data.check import Ledger
from finetune.errors import ConfigError, ExportError
from finetune.jobs import report, steps
from finetune.jobs.contents import contents_of
from finetune.jobs.export_checks import check_base
from finetune.jobs.export_formats import Exporter
from finetune.log import megabytes
from finetune.offline import as_configured
from finetune.records import Splits
from finetune.run import (
    RunFolder,
    existing_folder,
    is_run,
    make_private,
    read_json,
    refuse_changed_contents,
    write_json,
)

logger = logging.getLogger(__name__)


@as_configured
def export(config: RunConfig) -> Path:
    """Export the adapter of a finished training again, with the present export options; returns the export folder.

    With `adapter.path` and no run in the folder, that adapter is exported, whoever trained it.

    Raises:
        RunExists: there is no finished training of this configuration, rows and base model in the run folder.
        ExportError: the written model is not the one that was trained.
    """
    if config.adapter.path is not None and not is_run(config):
        return export_adapter(config, Path(config.adapter.path))
    rows = steps.check_cheaply(config)
    folder = existing_folder(config)
    if config.export.formats:
        loaded = steps.load_tokenizer(config)
        refuse_changed_contents(folder, config, contents_of(config, rows, *loaded))
        _load_and_write(config, rows, folder.adapter, folder, loaded)
    report.report_part(config, folder)
    check_verified(config, folder)
    return folder.export


def export_adapter(config: RunConfig, adapter_dir: Path) -> Path:
    """Check and export a PEFT folder that was trained elsewhere; the comparison uses `data` if they are given."""
    from finetune.evaluation.neutral_rows import neutral_rows
    from finetune.export.merge import check_values, plan_merge

    steps.check_model(config)
    folder = RunFolder(Path(config.output_dir).absolute())
    if config.data.path or config.data.sources:
        rows = steps.check_data(config)
    else:
        rows = steps.Rows(Splits(train=[], validation=[], test=neutral_rows()), Ledger())
    if config.export.imatrix and not rows.splits.train:
        raise ConfigError("export.imatrix: needs the training rows; give data.path=…, or leave it out")
    loaded = steps.load_tokenizer(config)
    check_values(plan_merge(loaded[1], adapter_dir))
    make_private(folder)
    steps.keep_golden(rows, loaded[0], folder)
    _load_and_write(config, rows, adapter_dir, folder, loaded)
    check_verified(config, folder)
    return folder.export


def _load_and_write(
    config: RunConfig, rows: steps.Rows, adapter_dir: Path, folder: RunFolder, loaded: tuple[Any, Path]
) -> None:
    tokenizer, base_dir = loaded
    check_base(config, base_dir, tokenizer)
    steps.check_golden(rows, tokenizer, folder)
    write_and_verify(config, config.export.formats, rows, steps.load_tuned(config, adapter_dir, loaded), folder)


def export_part(config: RunConfig, rows: steps.Rows, tuned: steps.Tuned, folder: RunFolder) -> None:
    """Export what `export.formats` names, unless it is there and verified (`resume=true`)."""
    done = read_json(folder.verification) if folder.verification.is_file() else {}
    missing = [format for format in config.export.formats if not done.get(format.name, {}).get("passed")]
    if missing:
        write_and_verify(config, missing, rows, tuned, folder)
    elif config.export.formats:
        logger.info("export: already done; see %s", folder.export)


def check_verified(config: RunConfig, folder: RunFolder) -> None:
    """Fail where a written model is not the one that was trained.

    Raises:
        ExportError: naming the format and what differs.
    """
    verified = read_json(folder.verification) if folder.verification.is_file() else {}
    for format in config.export.formats:
        found = verified.get(format.name, {})
        if not found.get("passed"):
            reason = found.get("reason", "it was never compared")
            raise ExportError(
                f"{format.name} is not the model that was trained: {reason}; it keeps the ending .unverified"
            )


def write_and_verify(
    config: RunConfig, formats: Sequence[ExportFormat], rows: steps.Rows, tuned: steps.Tuned, folder: RunFolder
) -> None:
    """Write each format straight from base and adapter, load it again and compare it with base + adapter."""
    from finetune.evaluation.merge_base import choose_merge_base, verification_prompts
    from finetune.evaluation.model_outputs import comparison_device
    from finetune.evaluation.scorers import end_of_turn_ids
    from finetune.evaluation.verify import remove_leftovers, trained_shift_kl, verification_to_json
    from finetune.export.merge import RoundTrip, plan_merge
    from finetune.export.safetensors import manifest_content
    from finetune.export.tensor_files import checkpoint_bytes

    held_out = rows.splits.test or rows.splits.validation or rows.splits.train
    prompts = verification_prompts(
        held_out, tuned.tokenizer, num_items=config.export.verification_items, max_length=config.training.max_length
    )
    remove_leftovers(folder.path)
    choice = choose_merge_base(
        config.export.merge_base,
        config.quantization,
        prompts,
        base_dir=tuned.base_dir,
        adapter_dir=tuned.adapter_dir,
        device=comparison_device(str(tuned.hardware.device), checkpoint_bytes(tuned.base_dir)),
        storage_dir=folder.path,
    )
    manifest: dict[str, Any] = read_json(folder.manifest) if folder.manifest.is_file() else {}
    verified: dict[str, Any] = read_json(folder.verification) if folder.verification.is_file() else {}
    with choice.reference as reference:
        is_quantized = config.quantization.method is not QuantizationMethod.none
        exporter = Exporter(
            config=config,
            tuned=tuned,
            folder=folder,
            plan=plan_merge(
                tuned.base_dir,
                tuned.adapter_dir,
                round_trip=RoundTrip(function=choice.round_trip) if choice.round_trip else None,
            ),
            reference=reference,
            end_ids=end_of_turn_ids(tuned.model, tuned.tokenizer, prompts.examples),
            card=_card(config, folder),
            shift=trained_shift_kl(tuned.model, reference) if is_quantized else None,
            rows=rows,
        )
        for format in formats:
            files, found = exporter.write(format)
            found = replace(found, merge_base=choice.name, merge_base_losses=dict(choice.losses) or None)
            manifest |= manifest_content({format.name: files})
            verified |= verification_to_json({format.name: found})
            write_json(folder.manifest, manifest)
            write_json(folder.verification, verified)
            logger.info(
                "export: %s, %s; %s (top-1 agreement %.2f %%, greedy match %.2f %%, KL mean %.2g nats)",
                files.path,
                megabytes(files.num_bytes),
                "verified" if found.passed else "NOT verified",
                100 * found.top1_agreement,
                100 * found.greedy_match,
                found.kl_mean,
            )
        exporter.write_modelfile()
        exporter.ask_in_runtime()


def _card(config: RunConfig, folder: RunFolder) -> str:
    from finetune.evaluation.report import build_model_card
    from finetune.export.card import export_card

    return export_card(
        build_model_card(folder.path, merged=True),
        license_name=config.model.license,
        license_url=config.model.license_url,
        base_model=config.model.hub_id,
        tags=[config.adapter.method.name, config.recipe],
    )
