#!/usr/bin/env python3
"""The trial of the embedded base model: can three minutes of QLoRA on two CPU cores teach it eight clause types?

Rows are CUAD clauses from master_clauses.csv (one clause, one question, the type's name as the answer), split by
contract; contracts that the base model read while it was trained are never on the test side. NF4 with double
quantisation and float32 products, rank 16 on every linear layer, plain PyTorch and peft. Accuracy is an eight-way
choice by log-likelihood of the answer. Prints one table, writes one JSON.

    python benchmarks/bench_embedded_base.py [--shared-data ../shared/data] [--seeds 0 1 7]

Tensor suffixes: B rows, T positions, V vocabulary, C choices, A answer positions.
"""

from __future__ import annotations

import argparse
import ast
import csv
import json
import random
import re
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from bitsandbytes.nn import Linear4bit
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

ROOT = Path(__file__).resolve().parent.parent
CLAUSE_TYPES = (
    "Governing Law", "Anti-Assignment", "Cap on Liability", "License Grant",
    "Audit Rights", "Insurance", "Termination for Convenience", "Non-Compete",
)  # fmt: skip
QUESTION = "Which clause type is this?"
CLAUSE_TOKENS = 160
TRAIN_ROWS_PER_TYPE, TEST_ROWS_PER_TYPE = 125, 25
IGNORED = -100


@dataclass(frozen=True)
class Clause:
    contract: str
    clause_type: str
    text: str


@dataclass
class Result:
    """One seed's figures; losses are nats per answer token on the test rows, processor seconds are per thread."""

    seed: int
    train_rows: int
    test_rows: int
    steps: int
    seconds: float
    processor_seconds: float
    base_accuracy: float
    tuned_accuracy: float
    base_loss: float
    tuned_loss: float
    tuned_accuracy_per_type: dict[str, float]


# --- rows -------------------------------------------------------------------------------------------------------------


def contract_key(filename: str) -> str:
    """The folder's names are cut and punctuated differently from the table's."""
    return re.sub(r"[^a-z0-9]", "", Path(filename).stem.lower())[:50]


def read_clauses(shared: Path) -> list[Clause]:
    """Clauses of the eight types, without repeats and without those listed under several of the types."""
    with (shared / "legal/cuad/master_clauses.csv").open(encoding="utf-8", errors="replace", newline="") as file:
        rows = list(csv.DictReader(file))
    clauses = {}
    for row in rows:
        for clause_type in CLAUSE_TYPES:
            for text in ast.literal_eval(row[clause_type] or "[]"):
                clause = Clause(contract_key(row["Filename"]), clause_type, " ".join(text.split()))
                clauses.setdefault(clause.text, set()).add(clause)
    single = [next(iter(same)) for same in clauses.values() if len({clause.clause_type for clause in same}) == 1]
    return sorted(
        (clause for clause in single if len(clause.text) > 40), key=lambda clause: (clause.contract, clause.text)
    )


def split_by_contract(clauses: list[Clause], seen: set[str], seed: int) -> tuple[list[Clause], list[Clause]]:
    """Whole contracts go to the test side until every type has its test rows; the rest, and all seen ones, train."""
    contracts = sorted({clause.contract for clause in clauses} - seen)
    random.Random(seed).shuffle(contracts)
    wanted = Counter(dict.fromkeys(CLAUSE_TYPES, TEST_ROWS_PER_TYPE))
    test, test_contracts = [], set()
    for contract in contracts:
        mine = [clause for clause in clauses if clause.contract == contract and wanted[clause.clause_type] > 0]
        if not mine:
            continue
        test_contracts.add(contract)
        for clause in mine:
            if wanted[clause.clause_type] > 0:
                wanted[clause.clause_type] -= 1
                test.append(clause)
    pool = [clause for clause in clauses if clause.contract not in test_contracts]
    random.Random(seed).shuffle(pool)
    train = []
    for clause_type in CLAUSE_TYPES:
        train += [clause for clause in pool if clause.clause_type == clause_type][:TRAIN_ROWS_PER_TYPE]
    return train, test


def encode_prompt(tokenizer: PreTrainedTokenizerBase, clause: Clause) -> list[int]:
    cut = tokenizer.decode(tokenizer(clause.text, add_special_tokens=False)["input_ids"][:CLAUSE_TOKENS])
    messages = [{"role": "user", "content": f"{cut}\n\n{QUESTION}"}]
    return tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]


def encode_answers(tokenizer: PreTrainedTokenizerBase) -> dict[str, list[int]]:
    return {
        name: [*tokenizer(name, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id] for name in CLAUSE_TYPES
    }


# --- the model --------------------------------------------------------------------------------------------------------


def load_quantized(path: Path) -> PreTrainedModel:
    """NF4 on the CPU. On processors with AVX512-BF16 bitsandbytes repacks the weights in the first forward pass without
    gradients, for a product that has no backward pass: training after an evaluation would silently go wrong."""
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    model = AutoModelForCausalLM.from_pretrained(
        path, quantization_config=quantization, dtype=torch.float32, device_map={"": "cpu"}
    )
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
    return model


def add_adapter(model: PreTrainedModel, seed: int) -> PeftModel:
    torch.manual_seed(seed)
    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, config)


def pad_batch(rows: list[tuple[list[int], list[int]]], padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, labels) of prompt + answer rows, padded on the right; labels hold the answer alone."""
    longest = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids, labels = [], []
    for prompt, answer in rows:
        rest = longest - len(prompt) - len(answer)
        ids.append([*prompt, *answer, *[padding] * rest])
        labels.append([*[IGNORED] * len(prompt), *answer, *[IGNORED] * rest])
    return torch.tensor(ids), torch.tensor(labels)


def answer_loss(model: PeftModel, ids_BT: torch.Tensor, labels_BT: torch.Tensor) -> torch.Tensor:
    """Right padding needs no mask under causal attention; only answer positions go through the output layer."""
    base = model.get_base_model()
    hidden_BTD = base.model(input_ids=ids_BT[:, :-1], use_cache=False).last_hidden_state
    answered_BT = labels_BT[:, 1:] != IGNORED
    return F.cross_entropy(base.lm_head(hidden_BTD[answered_BT]).float(), labels_BT[:, 1:][answered_BT])


def train(
    model: PeftModel, rows: list[tuple[list[int], list[int]]], padding: int, args: argparse.Namespace, seed: int
) -> tuple[float, float]:
    """AdamW, the rate falling linearly to zero; returns (seconds, seconds of processor time per thread)."""
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=args.learning_rate, weight_decay=0.0)
    shuffler, queue = random.Random(seed), []
    started, processor_started = time.monotonic(), time.process_time()
    model.train()
    for step in range(args.steps):
        if len(queue) < args.batch_rows:
            queue = shuffler.sample(rows, len(rows))
        batch, queue = queue[: args.batch_rows], queue[args.batch_rows :]
        optimizer.param_groups[0]["lr"] = args.learning_rate * min(1 - step / args.steps, (step + 1) / 10)
        loss = answer_loss(model, *pad_batch(batch, padding))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 20 == 0:
            print(f"  step {step + 1} {time.monotonic() - started:.0f} s loss {loss.item():.3f}", flush=True)
    return time.monotonic() - started, (time.process_time() - processor_started) / args.threads


@torch.no_grad()
def choose(model: PeftModel, prompt: list[int], answers: list[list[int]], padding: int) -> torch.Tensor:
    """Log-likelihood of every answer after the prompt, which is read once: [C]."""
    cached = model(input_ids=torch.tensor([prompt]), use_cache=True)
    first_logits_CV = cached.logits[0, -1:].expand(len(answers), -1)
    cached.past_key_values.batch_repeat_interleave(len(answers))
    longest = max(map(len, answers))
    ids_CA = torch.tensor([[*answer, *[padding] * (longest - len(answer))] for answer in answers])
    mask_CA = torch.tensor([[1.0] * len(answer) + [0.0] * (longest - len(answer)) for answer in answers])
    rest_logits_CAV = model(input_ids=ids_CA[:, :-1], past_key_values=cached.past_key_values).logits
    logits_CAV = torch.cat([first_logits_CV[:, None], rest_logits_CAV], dim=1).float()
    chosen_CA = logits_CAV.log_softmax(-1).gather(-1, ids_CA[..., None])[..., 0]
    return (chosen_CA * mask_CA).sum(1)


def evaluate(
    model: PeftModel, prompts: list[list[int]], test: list[Clause], answers: dict[str, list[int]], padding: int
) -> tuple[float, float, dict[str, float]]:
    """(accuracy, loss per answer token, accuracy per type)."""
    model.eval()
    names, right, nats, num_tokens = list(answers), Counter(), 0.0, 0
    for prompt, clause in zip(prompts, test, strict=True):
        scores_C = choose(model, prompt, list(answers.values()), padding)
        right[clause.clause_type] += names[int(scores_C.argmax())] == clause.clause_type
        nats -= scores_C[names.index(clause.clause_type)].item()
        num_tokens += len(answers[clause.clause_type])
    counts = Counter(clause.clause_type for clause in test)
    per_type = {name: round(right[name] / counts[name], 3) for name in names}
    return right.total() / len(test), nats / num_tokens, per_type


# --- the trial --------------------------------------------------------------------------------------------------------


def run_seed(args: argparse.Namespace, seed: int) -> Result:
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    seen = {contract_key(path.name) for path in (args.shared_data / "legal/cuad/contracts").glob("*.txt")}
    train_clauses, test_clauses = split_by_contract(read_clauses(args.shared_data), seen, seed)
    answers, padding = encode_answers(tokenizer), tokenizer.pad_token_id
    rows = [(encode_prompt(tokenizer, clause), answers[clause.clause_type]) for clause in train_clauses]
    prompts = [encode_prompt(tokenizer, clause) for clause in test_clauses]
    model = add_adapter(load_quantized(args.model), seed)
    base_accuracy, base_loss, _ = evaluate(model, prompts, test_clauses, answers, padding)
    print(f"seed {seed}: {len(rows)} train, {len(prompts)} test rows, base {base_accuracy:.1%}", flush=True)
    seconds, processor_seconds = train(model, rows, padding, args, seed)
    tuned_accuracy, tuned_loss, per_type = evaluate(model, prompts, test_clauses, answers, padding)
    return Result(
        seed=seed, train_rows=len(rows), test_rows=len(prompts), steps=args.steps,
        seconds=round(seconds, 1), processor_seconds=round(processor_seconds, 1),
        base_accuracy=round(base_accuracy, 4), tuned_accuracy=round(tuned_accuracy, 4),
        base_loss=round(base_loss, 4), tuned_loss=round(tuned_loss, 4), tuned_accuracy_per_type=per_type,
    )  # fmt: skip


def print_table(results: list[Result]) -> None:
    print(f"\n{'seed':>4} {'train':>6} {'test':>5} {'steps':>6} {'seconds':>8} {'base':>7} {'tuned':>7}")
    for r in results:
        print(
            f"{r.seed:>4} {r.train_rows:>6} {r.test_rows:>5} {r.steps:>6} {r.seconds:>8.0f}"
            f" {r.base_accuracy:>7.1%} {r.tuned_accuracy:>7.1%}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "models/embedded")
    parser.add_argument("--shared-data", type=Path, default=ROOT.parent / "shared/data")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 7])
    parser.add_argument("--steps", type=int, default=400, help="per seed; the default takes three minutes on two cores")
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--batch-rows", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks/embedded_base.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    results = [run_seed(args, seed) for seed in args.seeds]
    print_table(results)
    settings = {"learning_rate": args.learning_rate, "batch_rows": args.batch_rows, "threads": args.threads}
    report = {**settings, "clause_types": CLAUSE_TYPES, "results": [asdict(result) for result in results]}
    args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
