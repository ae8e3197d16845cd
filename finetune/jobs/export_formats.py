"""How each export format is written and verified. Called by export.py."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.config import ExportDtype, ExportFormat, RunConfig
from finetune.export.placing import ExportFiles
from finetune.jobs import steps
from finetune.jobs.export_checks import lay_out_file
from finetune.placing import move
from finetune.records import Verification
from finetune.run import RunFolder, read_json, write_json, write_text

if TYPE_CHECKING:  # both bring torch, which takes seconds
    from finetune.evaluation.verify import Reference
    from finetune.evaluation.verify_gguf import Trained
    from finetune.export.gguf.build import FileLayout
    from finetune.export.merge import MergePlan

logger = logging.getLogger(__name__)

MERGED_GGUF = [format for format in ExportFormat if format.is_gguf and format is not ExportFormat.gguf_lora]
"""Files that hold a whole model."""


@dataclass(kw_only=True)
class Exporter:
    """What all formats of one export share."""

    config: RunConfig
    tuned: steps.Tuned
    folder: RunFolder
    plan: "MergePlan"
    reference: "Reference"
    end_ids: Sequence[int]
    card: str
    shift: float | None
    rows: steps.Rows

    def write(self, format: ExportFormat) -> tuple[ExportFiles, Verification]:
        """Write one format and compare it with base + adapter; until it has passed, its name ends in .unverified."""
        target = self.path_of(format)
        unverified = target.with_name(f"{target.name}.unverified")
        if format is ExportFormat.safetensors:
            files, found = self._safetensors(unverified)
        elif format is ExportFormat.gguf_lora:
            files, found = self._gguf_lora(unverified)
        else:
            files, found = self._gguf(format, unverified)
        if not found.passed:
            return files, found
        move(unverified, target)
        return files.moved(target), found

    def path_of(self, format: ExportFormat) -> Path:
        """Where a format lies once it is verified."""
        if format is ExportFormat.safetensors:
            return self.folder.export / format.name
        return self.folder.export / "gguf" / f"{self.folder.path.name}-{format.value}.gguf"

    def _safetensors(self, path: Path) -> tuple[ExportFiles, Verification]:
        from finetune.evaluation.verify import verify_safetensors
        from finetune.export.safetensors import write_safetensors

        dtype = self.config.export.dtype
        files = write_safetensors(
            self.plan if dtype is ExportDtype.stored else self.plan.as_type(dtype.value),
            path,
            tokenizer=self.tuned.tokenizer,
            card=self.card,
            max_shard_bytes=self.config.export.max_shard_bytes,
            generation={"eos_token_id": list(self.end_ids)},
            progress="safetensors: writing",
        )
        found = verify_safetensors(
            files.path, self.reference, tokenizer=self.tuned.tokenizer, quantization_shift_kl_mean=self.shift
        )
        return files, replace(found, num_bytes=files.num_bytes)

    def _gguf(self, format: ExportFormat, path: Path) -> tuple[ExportFiles, Verification]:
        from finetune.evaluation.verify_gguf import verify_gguf
        from finetune.export.gguf.readback import damaged_tensors
        from finetune.export.gguf.write import write_gguf

        plan, layout = self.plan, self._layout(format)
        files = write_gguf(
            plan,
            path,
            tensors=layout.tensors,
            types=layout.types,
            metadata=layout.metadata,
            importance=self._importance if self.config.export.imatrix else None,
            progress=f"{format.name}: writing",
        )
        found = verify_gguf(
            files.path,
            format.value,
            self.reference,
            self._trained(layout),
            problems=damaged_tensors(files.path, plan, layout.tensors, layout.types),
            quantization_shift_kl_mean=self.shift,
        )
        return files, found

    def _gguf_lora(self, path: Path) -> tuple[ExportFiles, Verification]:
        """Write the adapter alone, and try it on an unchanged copy of the base, which is deleted again."""
        from finetune.evaluation.verify_gguf import verify_gguf
        from finetune.export.gguf.architectures import architecture_name
        from finetune.export.gguf.lora import write_lora
        from finetune.export.gguf.write import write_gguf
        from finetune.export.merge import plan_base

        base = plan_base(self.plan.base_dir)
        stored = {tensor.dtype for tensor in base.tensors}
        as_stored = ExportFormat.gguf_bf16 if "BF16" in stored else ExportFormat.gguf_f16
        plain = ExportFormat.gguf_f32 if "F32" in stored else as_stored
        model_config = read_json(base.base_dir / "config.json")
        shapes = {tensor.name: tensor.shape for tensor in base.tensors}
        layout = lay_out_file(self.config, plain, model_config, shapes, self.tuned.tokenizer, base.base_dir)
        files = write_lora(
            self.plan,
            path,
            tensors=layout.tensors,
            architecture=architecture_name(model_config),
            name=self.folder.path.name,
        )
        base_path = path.with_name(".base.gguf")
        try:
            write_gguf(base, base_path, tensors=layout.tensors, types=layout.types, metadata=layout.metadata)
            found = verify_gguf(
                base_path,
                plain.value,
                self.reference,
                self._trained(layout),
                lora=path,
                quantization_shift_kl_mean=self.shift,
            )
        finally:
            base_path.unlink(missing_ok=True)
        return files, found

    def ask_in_runtime(self) -> None:
        """Let the verified GGUF files answer test items in llama.cpp, for the evaluation's table."""
        from finetune.evaluation.exported import score_exports
        from finetune.evaluation.summary import summary_to_json

        config, folder = self.config, self.folder
        merged = [format for format in config.export.formats if format in MERGED_GGUF]
        files = {format.name: self.path_of(format) for format in merged if self.path_of(format).is_file()}
        if not files or not config.export.task_items or not folder.items.is_file():
            return
        result = score_exports(
            files,
            folder.items,
            self.tuned.tokenizer,
            self.rows.splits.test,
            config.evaluation,
            config.seed,
            num_items=config.export.task_items,
            max_length=config.model.context_length,
            examples=folder.examples if config.report.examples else None,
        )
        write_json(folder.summary, summary_to_json(result))
        main = result.metrics[result.main_metric].estimates
        for name in files:
            found = main[name]
            logger.info("%s in llama.cpp: %s %.3f (n=%d)", name, result.main_metric, found.value, found.n)

    def write_modelfile(self) -> None:
        """Write Ollama's Modelfile for the first verified GGUF file, and link all into LM Studio's folders."""
        from finetune.export.ollama import link_for_lm_studio, modelfile

        formats = [format for format in self.config.export.formats if format in MERGED_GGUF]
        written = [format for format in formats if self.path_of(format).is_file()]
        if written:
            tokenizer = self.tuned.tokenizer
            context = min(self.config.model.context_length, self._layout(written[0]).context)
            ends = [tokenizer.convert_ids_to_tokens(token) for token in self.end_ids]
            text = modelfile(f"gguf/{self.path_of(written[0]).name}", tokenizer, context, ends)
            write_text(self.folder.export / "Modelfile", text)
        for format in written:
            link_for_lm_studio(self.path_of(format), self.folder.export / "lm_studio", self.folder.path.name)

    def _layout(self, format: ExportFormat) -> "FileLayout":
        from finetune.export.companions import exported_config

        model_config = exported_config(self.plan, read_json(self.plan.base_dir / "config.json"))
        shapes = {tensor.name: tensor.shape for tensor in self.plan.tensors}
        return lay_out_file(self.config, format, model_config, shapes, self.tuned.tokenizer, self.plan.base_dir)

    def _trained(self, layout: "FileLayout") -> "Trained":
        from finetune.evaluation.verify_gguf import Trained
        from finetune.export.gguf.golden import check_golden

        golden = read_json(self.folder.golden) if self.folder.golden.is_file() else []
        return Trained(
            tokenizer=self.tuned.tokenizer,
            end_ids=self.end_ids,
            hard_texts=layout.hard_texts,
            golden=golden,
            golden_problems=check_golden,
        )

    @cached_property
    def _importance(self) -> Any:
        from finetune.export.gguf.importance import collect_importance

        rows, num_tokens = [], 0
        for example in steps.tokenize(self.config, self.rows, self.tuned.tokenizer).train:
            rows.append(example.input_ids)
            num_tokens += len(example.input_ids)
            if num_tokens >= self.config.export.imatrix_tokens:
                break
        logger.info("importance matrix: from %s training tokens", f"{num_tokens:,}")
        return collect_importance(self.tuned.model, rows)
