"""The model card, README.md, from training.json and the figures of benchmarks/bench_embedded_base.py."""

import json
from pathlib import Path

from embedded_model.optimizer import DECAY_SHARE
from embedded_model.rows import BATCH_TOKENS

TRIAL_FIGURES = Path(__file__).resolve().parents[2] / "benchmarks/embedded_base.json"
ATTRIBUTION = {
    "contracts": "60 contracts of CUAD v1, The Atticus Project, CC BY 4.0",
    "licences": "licence texts as Debian and Python ship them (Artistic, BSD, GPL 1-3, LGPL 2 and 3, PSF)",
    "medical": "first half of 5,000 rows of MedQuAD, Ben Abacha and Demner-Fushman, CC BY 4.0",
    "code_instructions": "4,000 rows of GPTeacher Codegen, Teknium, MIT",
    "standard_library": "Python's standard library and language reference, Python Software Foundation License",
}
CARD = """---
license: apache-2.0
language: en
pipeline_tag: text-generation
library_name: transformers
tags: [llama, tiny, demonstration]
---
# The embedded base model

A small Llama-architecture base model, trained from nothing by `scripts/build_embedded_model`, so that every recipe of
this project can be run, tested and shown on a laptop with no GPU and no network. **For demonstrations and tests only:
what it says about law, medicine or code is often wrong. Never use it for advice.**

<!-- Written by `scripts/build_embedded_model --card` from training.json and benchmarks/embedded_base.json. -->

| | |
|---|---|
| parameters | {parameters:,} (tied embeddings), stored in float16 |
| shape | 6 layers, hidden 256, feed-forward 768, 4 heads of 64, 2 key-value heads, RoPE 10,000 |
| context | 2,048 tokens (rows of 512, 1,024 and 2,048 tokens in training) |
| vocabulary | 4,096: byte-level BPE behind Llama 3's pre-tokenizer, digits one by one |
| trained on | {tokens:,} tokens in {steps:,} steps, {minutes:.0f} minutes on {threads} CPU cores ({precision}) |
| method | Muon on matrices, AdamW on the rest, {batch:,} tokens a step; {plans} |
| chat | `chat_template.jinja`: system, user, assistant, tool; `<|im_end|>` ends a turn |

The learning rate follows plans, one after the other (`PLANS` in `scripts/embedded_model/optimizer.py`): every step
takes its rate from the last plan begun, and a rerun follows the same plans, but is not promised to give the same
weights bit for bit on other hardware.

## Held-out bits per byte

Whole documents set aside before training (2% of each source, exact repeats removed first).

| domain | documents | bytes | bytes per token | bits per byte{stored_head} |
|---|---|---|---|---|{stored_rule}
{held_out}

## Training text

| text | documents | tokens | share of training | passes |
|---|---|---|---|---|
{sources}

Medical and code-instruction rows were shown as chats in the model's own template, the rest as plain documents.

## The trial: eight clause types in three minutes of QLoRA

{trial}

## Licence and limits

The weights are released under Apache-2.0. The training texts keep their own licences, named above. The base has read a
few million words of English and Python and nothing else: it knows no facts reliably, no other language, and repeats
phrases of its training text. It has had no safety training. NF4 and LoRA work on it as on a large model; quality
figures reached with it say nothing about larger ones.
"""
TRIAL = """\
CUAD clauses, split by contract, no test contract among the training texts; NF4 with double quantisation, rank 16 on
all linear layers, learning rate {learning_rate:g}, {batch_rows} rows a step, {threads} CPU cores
(`benchmarks/bench_embedded_base.py`). Accuracy is a choice of one in eight by log-likelihood.

| seed | training rows | test rows | steps | seconds, machine shared | processor seconds per core | before | after |
|---|---|---|---|---|---|---|---|
{rows}"""


PLAN = "from step {from_step:,} a plan of {tokens:,} tokens, its last {percent:.0%} falling linearly to zero"


def trial_text() -> str:
    if not TRIAL_FIGURES.exists():
        return "Not measured yet: `python benchmarks/bench_embedded_base.py`."
    trial = json.loads(TRIAL_FIGURES.read_text(encoding="utf-8"))
    rows = [
        f"| {r['seed']} | {r['train_rows']} | {r['test_rows']} | {r['steps']} "
        f"| {r['seconds']:.0f} | {r['processor_seconds']:.0f} "
        f"| {r['base_accuracy']:.1%} | {r['tuned_accuracy']:.1%} |"
        for r in trial["results"]
    ]
    return TRIAL.format(rows="\n".join(rows), **trial)


def write_card(output: Path) -> None:
    report = json.loads((output / "training.json").read_text(encoding="utf-8"))
    stored = report.get("stored", {})
    held_out = [
        f"| {domain} | {m['documents']} | {m['bytes']:,} | {m['bytes_per_token']:.2f} | {m['bits_per_byte']:.3f} |"
        + "".join(f" {figures[domain]:.3f} |" for figures in stored.values())
        for domain, m in report["held_out"].items()
    ]
    sources = [
        f"| {ATTRIBUTION[name]} | {s['documents']:,} | {s['tokens']:,} | {s['share']:.1%}"
        f" | {s['share'] * report['tokens'] / s['tokens']:.1f} |"
        for name, s in report["sources"].items()
    ]
    card = CARD.format(
        **{name: report[name] for name in ("parameters", "tokens", "steps", "precision", "threads")},
        plans="; ".join(PLAN.format(percent=DECAY_SHARE, **plan) for plan in report["plans"]),
        minutes=report["seconds"] / 60,
        batch=BATCH_TOKENS,
        stored_head="".join(f" | as stored, {name}" for name in stored),
        stored_rule="---|" * len(stored),
        held_out="\n".join(held_out),
        sources="\n".join(sources),
        trial=trial_text(),
    )
    (output / "README.md").write_text(card, encoding="utf-8")
