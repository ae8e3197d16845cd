"""Compares an exported model with the merge base + adapter under plain PEFT; called by the export job.

`reference_outputs` runs base + adapter, `verify_safetensors` the written folder, one model in memory at a time.
Memory beside the model: the logits of one prompt (T x V x 4 bytes) a few times over. Disk: those of all prompts.

Shapes: T positions of one prompt, V vocabulary.
"""

import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

import torch

from finetune.errors import ExportError, ModelError, ResourceError, one_line
from finetune.evaluation.model_outputs import greedy_tokens, kl_divergence, logits_of, plain_model
from finetune.evaluation.tokenizer_match import templates_match, tokenizers_match
from finetune.log import megabytes
from finetune.model.adapter_folder import check_adapter_folder
from finetune.records import Verification

MIN_TOP1_AGREEMENT = 0.99
MIN_GREEDY_MATCH = 0.99
MAX_NEW_TOKENS = 32

KL_FACTOR, KL_FLOOR = 20.0, 1e-8
"""Largest mean KL in nats: KL_FACTOR x epsilon^2 of the stored number type, or KL_FLOOR if that is more.

A rounded weight is off by up to epsilon / 2 of its size, and the divergence grows with the square of it. Right merges
of the three models in ../shared measured 0.01 to 0.75 x epsilon^2 in float16 and bfloat16, and 3e-12 nats in float32,
where the order of the sums decides.
"""


@dataclass(kw_only=True, slots=True)
class Reference:
    """What base + adapter says to the verification prompts. A context manager: leaving it deletes the stored logits."""

    prompts: list[list[int]]
    continuations: list[list[int]]
    """Greedy tokens after each prompt's start."""
    starts: list[int]
    """Where in each prompt the continuation begins."""
    device: str
    storage: tempfile.TemporaryDirectory[str]

    def logits(self, index: int) -> torch.Tensor:
        """Read one prompt's logits_TV in float32."""
        from finetune.headers.safetensors import load_file

        return load_file(Path(self.storage.name) / f"{index}.safetensors")["logits"]

    def close(self) -> None:
        """Delete the stored logits."""
        self.storage.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


@dataclass(slots=True)
class Differences:
    """Running comparison over all positions of all prompts."""

    max_abs: float = 0.0
    num_agreeing: int = 0
    kl: list[torch.Tensor] = field(default_factory=list)

    def add(self, expected_TV: torch.Tensor, actual_TV: torch.Tensor) -> None:
        if expected_TV.shape != actual_TV.shape:
            raise ExportError(
                f"the exported model gives {actual_TV.shape[-1]} logits, base + adapter {expected_TV.shape[-1]}"
            )
        if not torch.isfinite(actual_TV).all():
            raise ExportError("the exported model answers held-out prompts with NaN or infinity; export it again")
        self.max_abs = max(self.max_abs, float((expected_TV - actual_TV).abs().max()))
        self.num_agreeing += int((expected_TV.argmax(dim=-1) == actual_TV.argmax(dim=-1)).sum())
        self.kl.append(kl_divergence(expected_TV, actual_TV))


def reference_outputs(
    base_dir: Path,
    adapter_dir: Path,
    prompts: Sequence[Sequence[int]],
    *,
    starts: Sequence[int] | None = None,
    max_new_tokens: int = MAX_NEW_TOKENS,
    round_trip: Callable[[torch.Tensor], torch.Tensor] | None = None,
    device: str = "cpu",
    storage_dir: Path | None = None,
) -> Reference:
    """Run the unquantised base + adapter under plain PEFT and keep its logits and greedy continuations.

    `prompts` are token ids of held-out prompt + answer; continuations begin at `starts` (the first answer token), by
    default at the end. `round_trip` is put through every linear weight but the output head's first, for an export
    that merges into the dequantised base. Logits go to a temporary folder below `storage_dir`.

    Raises:
        ModelError: base or adapter does not load.
        ResourceError: the disk has no room for the logits.
    """
    from peft import PeftModel

    if not prompts:
        raise ExportError("there are no held-out prompts to verify the export on; set data.test_share above 0")
    assert all(len(prompt) for prompt in prompts)
    with plain_model(base_dir, device, round_trip) as plain:
        base = plain.model
        check_adapter_folder(adapter_dir)
        try:
            model = PeftModel.from_pretrained(base, str(adapter_dir), is_trainable=False, torch_device=device).eval()
        except Exception as error:
            raise ModelError(f"{adapter_dir}: cannot load the adapter: {one_line(error)}") from error
        reference = Reference(
            prompts=[list(prompt) for prompt in prompts],
            continuations=[],
            starts=list(starts) if starts is not None else [len(prompt) for prompt in prompts],
            device=device,
            storage=_storage(prompts, base.get_input_embeddings().weight.shape[0], storage_dir),
        )
        try:
            _run_reference(model, reference, max_new_tokens)
        except BaseException:
            reference.close()
            raise
    return reference


def _storage(
    prompts: Sequence[Sequence[int]], vocab_size: int, storage_dir: Path | None
) -> tempfile.TemporaryDirectory[str]:
    needed = sum(len(prompt) for prompt in prompts) * vocab_size * 4
    storage: tempfile.TemporaryDirectory[str] = tempfile.TemporaryDirectory(prefix=".verification-", dir=storage_dir)
    free = shutil.disk_usage(storage.name).free
    if free < needed:
        storage.cleanup()
        raise ResourceError(
            f"{Path(storage.name).parent}: the verification's logits need {megabytes(needed)}, the disk has "
            f"{megabytes(free)} free; free some space, or lower export.verification_items"
        )
    return storage


def _run_reference(model: Any, reference: Reference, max_new_tokens: int) -> None:
    from safetensors.torch import save_file

    context = getattr(model.config, "max_position_embeddings", None) or math.inf
    for index, (prompt, start) in enumerate(zip(reference.prompts, reference.starts, strict=True)):
        logits_TV = logits_of(model, prompt)
        if not torch.isfinite(logits_TV).all():
            raise ModelError(f"base + adapter answers verification prompt {index} with NaN or infinity")
        save_file({"logits": logits_TV}, Path(reference.storage.name) / f"{index}.safetensors")
        num_tokens = max(1, min(max_new_tokens, context - start))
        reference.continuations.append(greedy_tokens(model, prompt[: max(1, start)], int(num_tokens)))


def verify_safetensors(
    folder: Path,
    reference: Reference,
    *,
    tokenizer: Any,
    quantization_shift_kl_mean: float | None = None,
) -> Verification:
    """Load an exported folder as any user would and compare it with the reference.

    `tokenizer` is the one that was trained with. The gate: no tensor left out, top-1 and greedy agreement of at least
    99 % of tokens, a mean KL within what rounding explains (KL_FACTOR), the same tokenizer and the same template.
    `quantization_shift_kl_mean` (see `trained_shift_kl`) is handed through.

    Raises:
        ExportError: transformers cannot load the folder.
    """
    from transformers import AutoTokenizer

    try:
        exported = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:
        raise ExportError(f"{folder}: the exported tokenizer does not load: {one_line(error)}") from error
    try:
        with plain_model(folder, reference.device) as plain:
            differences, num_equal = _compare(plain.model, reference)
    except ModelError as error:
        raise ExportError(f"the exported model does not load: {one_line(error)}") from error
    kl_T, num_greedy = torch.cat(differences.kl), sum(len(tokens) for tokens in reference.continuations)
    found = Verification(
        passed=False,
        max_abs_logit_difference=differences.max_abs,
        top1_agreement=differences.num_agreeing / len(kl_T),
        greedy_match=num_equal / max(1, num_greedy),
        tokenizer_match=tokenizers_match(tokenizer, exported, reference.prompts),
        template_match=templates_match(tokenizer, exported),
        kl_mean=float(kl_T.mean()),
        kl_p99=float(kl_T.quantile(0.99)),
        num_tokens=len(kl_T),
        quantization_shift_kl_mean=quantization_shift_kl_mean,
    )
    reasons = [*plain.problems, *_failures(found, num_greedy, max(KL_FLOOR, KL_FACTOR * plain.epsilon**2))]
    return replace(found, passed=not reasons, reason="; ".join(reasons))


def _compare(model: Any, reference: Reference) -> tuple[Differences, int]:
    """Return the differences of the logits, and how many of the reference's greedy tokens the model chooses too.

    It chooses after the reference's own history: one rounded tie early on would else make all later tokens differ,
    and say nothing about them.
    """
    differences, num_equal = Differences(), 0
    for index, (prompt, start) in enumerate(zip(reference.prompts, reference.starts, strict=True)):
        differences.add(reference.logits(index), logits_of(model, prompt))
        expected = reference.continuations[index]
        history = [*prompt[: max(1, start)], *expected[:-1]]
        chosen = logits_of(model, history)[-len(expected) :].argmax(dim=-1).tolist()
        num_equal += sum(one == other for one, other in zip(expected, chosen, strict=True))
    return differences, num_equal


def agrees(share: float, num_tokens: int, least: float) -> bool:
    """Whether a share of equal tokens suffices. One token may always differ: a rounded tie is no fault of a merge."""
    return share >= least or round((1 - share) * num_tokens) <= 1


def _failures(found: Verification, num_greedy: int, max_kl_mean: float) -> Iterator[str]:
    """Say in which points an export is not the model that was trained; a NaN fails its point."""
    if not agrees(found.top1_agreement, found.num_tokens, MIN_TOP1_AGREEMENT):
        yield f"the most likely token agrees at {found.top1_agreement:.2%} of positions, not {MIN_TOP1_AGREEMENT:.0%}"
    if not agrees(found.greedy_match, num_greedy, MIN_GREEDY_MATCH):
        yield f"greedy outputs agree on {found.greedy_match:.2%} of tokens, not {MIN_GREEDY_MATCH:.0%}"
    if not found.kl_mean <= max_kl_mean:
        yield f"the mean KL divergence is {found.kl_mean:.2g} nats, more than the {max_kl_mean:.2g} of rounding"
    if not found.tokenizer_match:
        yield "the tokenizer encodes differently from the one that was trained with"
    if not found.template_match:
        yield "the chat template differs from the one that was trained with"


def trained_shift_kl(model: Any, reference: Reference) -> float:
    """Mean KL divergence in nats from the trained model's function to the reference's, over all positions.

    `model` is the live model as it was trained, its base in NF4; it is run without gradients and not changed.
    """
    was_training = bool(model.training)
    model.eval()
    try:
        shifts = [
            kl_divergence(logits_of(model, prompt), reference.logits(index))
            for index, prompt in enumerate(reference.prompts)
        ]
    finally:
        model.train(was_training)
    return float(torch.cat(shifts).mean())


def answer_loss(reference: Reference) -> float:
    """Mean loss in nats of the tokens from each prompt's start on: how well base + adapter knows held-out answers."""
    losses = []
    for index, (prompt, start) in enumerate(zip(reference.prompts, reference.starts, strict=True)):
        first = max(1, start)
        if first < len(prompt):
            logits_TV = reference.logits(index)[first - 1 : len(prompt) - 1]
            losses.append(torch.nn.functional.cross_entropy(logits_TV, torch.tensor(prompt[first:]), reduction="none"))
    return float(torch.cat(losses).mean()) if losses else float("nan")


def verification_to_json(verifications: Mapping[str, Verification]) -> dict[str, dict[str, object]]:
    """Return what `export/verification.json` holds: format name -> all that was found."""
    return {name: asdict(verification) for name, verification in verifications.items()}
