"""Merges, writes and verifies the tuned model: `python -m finetune export recipe=…`; a part of a run."""

import logging
from pathlib import Path

from finetune.config import ExportFormat, QuantizationMethod, RunConfig
from finetune.errors import ExportError
from finetune.jobs import report, steps
from finetune.log import megabytes
from finetune.run import RunFolder, existing_folder, read_json, write_json

logger = logging.getLogger(__name__)


def export(config: RunConfig) -> Path:
    """Export the adapter of a finished training again, with the present export options; returns the export folder.

    Raises:
        RunExists: there is no finished training of this configuration in the run folder.
        ExportError: the written model is not the one that was trained.
    """
    rows = steps.check_cheaply(config)
    folder = existing_folder(config)
    if config.export.formats:
        write_and_verify(config, rows, steps.load_tuned(config, folder), folder)
    report.report_part(folder)
    check_verified(folder)
    return folder.export


def export_part(config: RunConfig, rows: steps.Rows, tuned: steps.Tuned, folder: RunFolder) -> None:
    """Export what `export.formats` names, unless it is there and verified (`resume=true`)."""
    wanted = {format.name for format in config.export.formats}
    done = read_json(folder.verification) if folder.verification.is_file() else {}
    if wanted and all(done.get(name, {}).get("passed") for name in wanted):
        logger.info("export: already done; see %s", folder.export)
    elif wanted:
        write_and_verify(config, rows, tuned, folder)


def check_verified(folder: RunFolder) -> None:
    """Fail where a written model is not the one that was trained.

    Raises:
        ExportError: naming the format and what differs.
    """
    if not folder.verification.is_file():
        return
    for name, found in read_json(folder.verification).items():
        if not found["passed"]:
            raise ExportError(f"export/{name} is not the model that was trained: {found['reason']}; do not use it")


def write_and_verify(config: RunConfig, rows: steps.Rows, tuned: steps.Tuned, folder: RunFolder) -> None:
    """Write the merged model straight from base and adapter, load it again and compare it with base + adapter."""
    from finetune.evaluation.merge_base import choose_merge_base, verification_prompts
    from finetune.evaluation.scorers import end_of_turn_ids
    from finetune.evaluation.verify import trained_shift_kl, verification_to_json, verify_safetensors
    from finetune.export.merge import RoundTrip, plan_merge
    from finetune.export.safetensors import manifest_content, write_safetensors

    name = ExportFormat.safetensors.name
    held_out = rows.splits.test or rows.splits.validation or rows.splits.train
    prompts = verification_prompts(
        held_out, tuned.tokenizer, num_items=config.export.verification_items, max_length=config.training.max_length
    )
    round_trip, reference = choose_merge_base(
        config.export.merge_base,
        config.quantization,
        prompts,
        base_dir=tuned.base_dir,
        adapter_dir=folder.adapter,
        device=str(tuned.hardware.device),
        storage_dir=folder.path,
    )
    with reference:
        is_quantized = config.quantization.method is not QuantizationMethod.none
        shift = trained_shift_kl(tuned.model, reference) if is_quantized else None
        files = write_safetensors(
            plan_merge(
                tuned.base_dir, folder.adapter, round_trip=RoundTrip(function=round_trip) if round_trip else None
            ),
            folder.export / name,
            tokenizer=tuned.tokenizer,
            card=_card(config, folder),
            max_shard_bytes=config.export.max_shard_bytes,
            generation={"eos_token_id": end_of_turn_ids(tuned.model, tuned.tokenizer, prompts.examples)},
        )
        found = verify_safetensors(
            folder.export / name, reference, tokenizer=tuned.tokenizer, quantization_shift_kl_mean=shift
        )
    write_json(folder.export / "manifest.json", manifest_content({name: files}))
    write_json(folder.verification, verification_to_json({name: found}))
    logger.info(
        "export: %s, %s; %s (largest logit difference %.2g, top-1 agreement %.2f %%, greedy match %.2f %%)",
        folder.export / name,
        megabytes(files.num_bytes),
        "verified" if found.passed else "NOT verified",
        found.max_abs_logit_difference,
        100 * found.top1_agreement,
        100 * found.greedy_match,
    )


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
