"""How fast options of choice items are scored, and whether the figures are lm-eval's: one table, scoring.json.

    uv run --with lm-eval[hf]==0.4.13 benchmarks/bench_scoring.py [--items 2000] [--model models/embedded] [--threads 1]

The items are the project's own (data/legal, data/medical, data/code), each with two to four options, in float32 on the
CPU. Both sides get the same texts (the prompt in the model's chat template, the option with its end-of-turn token)
and tokenise them themselves; both times include that. lm-eval's HF back end runs with the batch size that is fastest
for it on the first 50 items, of 1, 8, 32 and 128. Log-probabilities are compared on 200 items, with the same token ids
on both sides: of texts, lm-eval scores white space at the end of the prompt as part of the answer. The bars: the
log-probabilities differ by 1e-4 at most, and lm-eval takes at least three times as long.
"""

import argparse
import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
TARGET = ROOT / "benchmarks" / "scoring.json"
MOST_DIFFERENCE = 1e-4
LEAST_SPEEDUP = 3.0
BATCH_SIZES = (1, 8, 32, 128)
TRIED_ITEMS = 50
COMPARED_ITEMS = 200
BATCH_TOKENS = 4096
"""The default of evaluation.batch_tokens."""


def choice_items(num_items: int) -> list[Any]:
    """Rows with options from the project's own sets."""
    from finetune.records import Conversation, Message

    rows: list[Conversation] = []
    for domain in ("legal", "medical", "code"):
        for split in ("train", "test", "validation"):
            with (ROOT / "data" / domain / f"{split}.jsonl").open(encoding="utf-8") as file:
                for row in map(json.loads, file):
                    messages = (Message(role="user", content=row["question"]),
                                Message(role="assistant", content=row["answer"]))  # fmt: skip
                    rows.append(
                        Conversation(
                            item_id=row["id"], source=f"{domain}/{split}", messages=messages,
                            options=tuple(row["options"]),
                        )
                    )  # fmt: skip
    return rows[:: max(1, len(rows) // num_items)][:num_items]


def ours(model: Any, tokenizer: Any, rows: list[Any]) -> list[float]:
    """Log-probabilities of all options, in nats, in order."""
    from finetune.evaluation.fitting import option_examples
    from finetune.evaluation.scorers import score_examples

    examples = [example for row in rows for example in option_examples(row, tokenizer, 2048)]
    scores = score_examples(model, examples, batch_tokens=BATCH_TOKENS, pad_token_id=tokenizer.pad_token_id)
    return [score.log_probability_nats for score in scores]


def texts(tokenizer: Any, rows: list[Any]) -> list[tuple[str, str]]:
    """What lm-eval is given: context and continuation of every option."""
    found: list[tuple[str, str]] = []
    for row in rows:
        chat = [{"role": message.role, "content": message.content} for message in row.prompt]
        context = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        found += [(context, option + tokenizer.eos_token) for option in row.options]
    return found


def lm_eval_model(model: Any, tokenizer: Any, batch_size: int) -> Any:
    """The model in lm-eval's HF back end."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, device="cpu")


def theirs_on_our_tokens(model: Any, tokenizer: Any, rows: list[Any], batch_size: int) -> list[float]:
    """lm-eval's log-probabilities of all options, of the token ids that `ours` scores."""
    from finetune.evaluation.fitting import option_examples

    requests: list[tuple[tuple[str, str], list[int], list[int]]] = []
    for number, example in enumerate(example for row in rows for example in option_examples(row, tokenizer, 2048)):
        first = example.loss_mask.index(True)
        end = len(example.loss_mask) - example.loss_mask[::-1].index(True)
        requests.append(((str(number), ""), example.input_ids[:first], example.input_ids[first:end]))
    subject = lm_eval_model(model, tokenizer, batch_size)
    return [score for score, _ in subject._loglikelihood_tokens(requests, disable_tqdm=True)]


def theirs(model: Any, tokenizer: Any, requests: list[tuple[str, str]], batch_size: int) -> list[float]:
    """lm-eval's log-probabilities of the options' texts."""
    from lm_eval.api.instance import Instance

    subject = lm_eval_model(model, tokenizer, batch_size)
    instances = [Instance(request_type="loglikelihood", doc={}, arguments=request, idx=0) for request in requests]
    return [score for score, _ in subject.loglikelihood(instances, disable_tqdm=True)]


def timed(function: Any, *arguments: Any) -> tuple[float, Any]:
    """Seconds and result of a call."""
    start = time.perf_counter()
    result = function(*arguments)
    return time.perf_counter() - start, result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "embedded")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(options.threads)
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    rows = choice_items(options.items)
    requests = texts(tokenizer, rows)
    tried = {
        size: timed(theirs, model, tokenizer, texts(tokenizer, rows[:TRIED_ITEMS]), size)[0] for size in BATCH_SIZES
    }
    batch_size = min(tried, key=tried.__getitem__)
    our_seconds, our_scores = timed(ours, model, tokenizer, rows)
    compared = rows[:COMPARED_ITEMS]
    same_tokens = theirs_on_our_tokens(model, tokenizer, compared, batch_size)
    difference = max(abs(one - other) for one, other in zip(our_scores, same_tokens, strict=False))
    their_seconds, _ = timed(theirs, model, tokenizer, requests, batch_size)
    found = {
        "items": len(rows),
        "options": len(requests),
        "model": options.model.name,
        "threads": options.threads,
        "cpu": cpu(),
        "versions": {name: version(name) for name in ("lm-eval", "torch", "transformers")},
        "lm_eval_seconds_by_batch_size": {str(size): round(seconds, 2) for size, seconds in tried.items()},
        "lm_eval_batch_size": batch_size,
        "seconds": {"finetune": round(our_seconds, 2), "lm-eval": round(their_seconds, 2)},
        "speedup": round(their_seconds / our_seconds, 2),
        "compared": {"items": len(compared), "options": len(same_tokens)},
        "largest_difference_nats": difference,
    }
    TARGET.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"{len(rows):,} items, {len(requests):,} options, {options.model.name}, {options.threads} thread(s)")
    for name, seconds in (("finetune", our_seconds), (f"lm-eval, batches of {batch_size}", their_seconds)):
        print(f"{name:24} {seconds:8.1f} s {len(rows) / seconds:8.0f} items/s")
    print(f"{their_seconds / our_seconds:.1f} times as fast")
    print(f"largest difference {difference:.1e} nats over {len(same_tokens)} options")
    return int(difference > MOST_DIFFERENCE or their_seconds < LEAST_SPEEDUP * our_seconds)


def cpu() -> str:
    """Name of the processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else []  # noqa: PTH110
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


if __name__ == "__main__":
    sys.exit(main())
