"""Merges, writes and verifies the tuned model: `python -m finetune export recipe=…`; a part of a run."""

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from finetune.config import ExportFormat, MergeBase, QuantizationMethod, RunConfig
from finetune.errors import ExportError
from finetune.jobs import report, steps
from finetune.log import megabytes
from finetune.run import RunFolder, existing_folder, read_json, write_json

logger = logging.getLogger(__name__)

_VERIFIED_TOKENS = 512
"""Longest prompt that verification reads, in tokens."""


def export(config: RunConfig) -> Path:
    """Export the adapter of a finished training again, with the present export options; returns the export folder.

    Raises:
        RunExists: there is no finished training of this configuration in the run folder.
        ExportError: the written model is not the one that was trained.
    """
    rows = steps.check_cheaply(config)
    folder = existing_folder(config)
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
    from finetune.evaluation.report import build_model_card
    from finetune.evaluation.verify import trained_shift_kl, verification_to_json, verify_safetensors
    from finetune.export.card import export_card
    from finetune.export.merge import RoundTrip, plan_merge
    from finetune.export.safetensors import manifest_content, write_safetensors

    prompts, starts = _verification_prompts(config, rows, tuned.tokenizer)
    round_trip, reference = _merge_base(config, tuned, folder, prompts, starts)
    with reference:
        shift = trained_shift_kl(tuned.model, reference) if _is_quantized(config) else None
        plan = plan_merge(
            tuned.base_dir, folder.adapter, round_trip=RoundTrip(function=round_trip) if round_trip else None
        )
        card = export_card(
            build_model_card(folder.path),
            license_name=config.model.license,
            license_url=config.model.license_url,
            base_model=config.model.hub_id,
            tags=[config.adapter.method.name, config.recipe],
        )
        target = folder.export / ExportFormat.safetensors.name
        files = write_safetensors(
            plan, target, tokenizer=tuned.tokenizer, card=card, max_shard_bytes=config.export.max_shard_bytes
        )
        found = verify_safetensors(target, reference, tokenizer=tuned.tokenizer, quantization_shift_kl_mean=shift)
    write_json(folder.export / "manifest.json", manifest_content({ExportFormat.safetensors.name: files}))
    write_json(folder.verification, verification_to_json({ExportFormat.safetensors.name: found}))
    logger.info(
        "export: %s, %s; %s (largest logit difference %.2g, top-1 agreement %.2f %%, greedy match %.2f %%)",
        target,
        megabytes(files.num_bytes),
        "verified" if found.passed else "NOT verified",
        found.max_abs_logit_difference,
        100 * found.top1_agreement,
        100 * found.greedy_match,
    )


def _is_quantized(config: RunConfig) -> bool:
    return config.quantization.method is not QuantizationMethod.none


def _verification_prompts(config: RunConfig, rows: steps.Rows, tokenizer: Any) -> tuple[list[list[int]], list[int]]:
    """Return held-out token ids, and where in each the answer begins (half-way through a plain text)."""
    from finetune.data.tokenize import fit

    held_out = rows.splits.test or rows.splits.validation or rows.splits.train
    length = min(config.training.max_length, _VERIFIED_TOKENS)
    prompts: list[list[int]] = []
    starts: list[int] = []
    for conversation in held_out[: config.export.verification_items]:
        for example in fit(conversation, tokenizer, length, last_turn_only=True)[:1]:
            answered = conversation.text is None
            prompts.append(example.input_ids)
            starts.append(example.loss_mask.index(True) if answered else len(example.input_ids) // 2)
    return prompts, starts


def _merge_base(
    config: RunConfig, tuned: steps.Tuned, folder: RunFolder, prompts: list[list[int]], starts: list[int]
) -> tuple[Callable[[Any], Any] | None, Any]:
    """Choose the weights to merge into; returns what to put them through (None: nothing) and their reference.

    With `auto` the loss on held-out answers decides between the original and the dequantised weights.
    """
    from finetune.evaluation.verify import answer_loss, reference_outputs
    from finetune.model.quantize import round_trip_nf4

    refer = functools.partial(
        reference_outputs,
        tuned.base_dir,
        folder.adapter,
        prompts,
        starts=starts,
        device=str(tuned.hardware.device),
        storage_dir=folder.path,
    )
    choice = config.export.merge_base
    if config.quantization.method is not QuantizationMethod.nf4 or choice is MergeBase.original:
        return None, refer()
    round_trip = functools.partial(round_trip_nf4, double_quantization=config.quantization.double_quantization)
    dequantized = refer(round_trip=round_trip)
    if choice is MergeBase.dequantized:
        return round_trip, dequantized
    original = refer()
    losses = {"original": answer_loss(original), "dequantized": answer_loss(dequantized)}
    logger.info("export.merge_base: held-out loss %.4f on original weights, %.4f on dequantised", *losses.values())
    if losses["original"] <= losses["dequantized"]:
        dequantized.close()
        return None, original
    original.close()
    return round_trip, dequantized
