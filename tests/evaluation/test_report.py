"""The report and the model card of a run folder made by hand, whole and with every file missing or damaged."""

import json
import random
import re
import shutil
from html.parser import HTMLParser

import pytest
import yaml

from finetune.config import EvaluationConfig
from finetune.evaluation import charts, examples, summary, svg, wording
from finetune.evaluation.report import build_model_card, build_report
from finetune.records import ItemScore

PARTS = (
    "config.yaml", "versions.json", "data/ledger.json", "metrics.jsonl", "evaluation/summary.json",
    "evaluation/items.jsonl", "export/verification.json",
)  # fmt: skip
ATTACK = '<script>alert("x")</script>'


def make_items(num_items=200, *, base_rate=0.25, tuned_rate=0.93):
    draw = random.Random(5)
    items = []
    for number in range(num_items):
        values = {
            ("base", "choice_accuracy"): float(draw.random() < base_rate),
            ("tuned", "choice_accuracy"): float(draw.random() < tuned_rate),
            ("majority_class", "choice_accuracy"): float(number % 5 < 2),
            ("base", "bits_per_byte"): 2.1 + draw.gauss(0, 0.3),
            ("tuned", "bits_per_byte"): 0.7 + draw.gauss(0, 0.2),
        }
        items += [
            ItemScore(
                item_id=f"cuad-{number:04d}", cluster_id=f"contract-{number // 2}", model=model, metric=metric,
                value=value, weight=float(10 + number % 7) if metric == "bits_per_byte" else 1.0,
            )
            for (model, metric), value in values.items()
        ]  # fmt: skip
    return items


def make_steps(num_steps=240):
    draw = random.Random(3)
    rows = [{"step": 0, "epoch": 0.0, "validation_loss": 2.31, "peak_memory_bytes": 5_100_000_000}]
    for step in range(2, num_steps + 1, 2):
        rows.append(
            {
                "step": step, "epoch": step / 80, "loss": 0.55 + 1.8 * 0.985**step + draw.gauss(0, 0.06),
                "learning_rate": 2e-4, "grad_norm": 0.8, "tokens": step * 16384,
                "tokens_per_second": 2900 + draw.gauss(0, 60), "peak_memory_bytes": 9_400_000_000,
            }
        )  # fmt: skip
        if step % 40 == 0:
            rows[-1]["validation_loss"] = 0.68 + 1.6 * 0.983**step
    return rows


def make_run(folder, *, items=None, note="legal_qlora"):
    """Write a run folder as the contract lays it out; `note` stands wherever a user's text can stand."""
    items = make_items() if items is None else items
    config = {
        "fingerprint": "3f7a" * 16,
        "recipe": note,
        "seed": 42,
        "model": {
            "name": "qwen3-8b", "path": None, "hub_id": "Qwen/Qwen3-8B",
            "revision": "b968826d9c46dd6066d109eabc6255188de91218",
            "license": "Apache-2.0", "license_url": "https://www.apache.org/licenses/LICENSE-2.0",
            "commercial_use": "allowed", "context_length": 40960,
        },
        "data": {"path": "data/legal/train.jsonl", "format": "choices", "prompt": note, "system": None},
        "adapter": {"method": "lora", "rank": 16, "alpha": 32.0, "target_modules": ["all-linear"]},
        "quantization": {"method": "nf4", "double_quantization": True},
        "training": {"learning_rate": 2e-4, "num_epochs": 3.0, "max_length": 2048, "schedule": "cosine"},
    }  # fmt: skip
    verification = {
        "passed": True, "max_abs_logit_difference": 0.00042, "top1_agreement": 0.9996, "greedy_match": 1.0,
        "tokenizer_match": True, "template_match": True, "kl_mean": 3.1e-8, "num_tokens": 4120,
        "quantization_shift_kl_mean": 0.0091, "reason": "",
    }  # fmt: skip
    ledger = {
        "rows_in": 3140, "rows_used": 3011, "splits": {"train": 2511, "validation": 300, "test": 200},
        "rejected": {"null": 0, "exact_duplicate": 97, "empty_answer": 21, "too_long": 11, note: 1},
        "tokens": {"total": 1_310_422, "supervised": 61_190, "truncated": 0}, "truncated_rows": 0,
        "duplicates": {"exact": 97, "near": 0, "across_splits": 4}, "pii": {"mail": 12, "phone": 3, note: 1},
    }  # fmt: skip
    versions = {"python": "3.11.9", "packages": {"torch": "2.13.0", "peft": "0.21.2"}, "device": note, "seed": 42}
    files = dict.fromkeys(PARTS, "")
    files["config.yaml"] = yaml.safe_dump(config, sort_keys=False)
    files["versions.json"] = json.dumps(versions)
    files["data/ledger.json"] = json.dumps(ledger)
    files["metrics.jsonl"] = "".join(json.dumps(row) + "\n" for row in make_steps())
    result = summary.summarise(items, EvaluationConfig(bootstrap_samples=500))
    files["evaluation/summary.json"] = json.dumps(summary.summary_to_json(result))
    files["export/verification.json"] = json.dumps({"safetensors": verification})
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    summary.write_items(folder / "evaluation/items.jsonl", items)
    return folder


def make_examples(folder, text="Delaware"):
    """Add what base, tuned and an export wrote to three questions."""
    rows = [
        examples.Example(
            item_id=f"cuad-{number:04d}", kind=kind, question=f"Which law governs {text}?\n\nThe law of {text}.",
            reference=text, answers={"base": "I cannot say", "tuned": text, "gguf_q4_k_m": f"the State of {text}"},
        )
        for number, kind in enumerate(["lost", "won", "both right"])
    ]  # fmt: skip
    examples.write_examples(folder / "evaluation/examples.jsonl", rows)


def make_calibration(folder):
    """Add reliability bins to summary.json."""
    path = folder / "evaluation/summary.json"
    bins = [{"low": low / 10, "high": low / 10 + 0.1, "n": 5 + low, "confidence": low / 10 + 0.05} for low in range(9)]
    curves = {name: [part | {"accuracy": part["confidence"] * share} for part in bins]
              for name, share in (("base", 0.6), ("tuned", 0.95))}  # fmt: skip
    path.write_text(json.dumps(json.loads(path.read_text()) | {"calibration": curves}))


def make_long_names(folder, name=f"{'AGREEMENT_' * 20}.txt"):
    """Add names and texts of rows that have no place to break a line."""
    path = folder / "data/ledger.json"
    example = {"item": name, "source": name, "words": 26, "excerpt": name}
    test = {"items": 64, "items_not_compared": 0, "contaminated": 4, "longest_match_words": 26, "examples": [example]}
    rejected = {"examples": {"empty_answer": [{"source": name, "detail": name}]}, "contamination": {"test": test}}
    path.write_text(json.dumps(json.loads(path.read_text()) | rejected))
    (folder / "data/preview.html").write_text(f"<pre>{name}</pre>")


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture
def run_dir(whole_run, tmp_path):
    return shutil.copytree(whole_run, tmp_path / "legal_qlora")


class Page(HTMLParser):
    """Collects tags, their addresses and the visible text; checks that tags are closed in order."""

    VOID = ("meta", "br", "link", "img", "hr", "input")

    def __init__(self, html):
        super().__init__()
        self.tags, self.addresses, self.text, self.open = [], [], "", []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.text += " "
        self.addresses += [value for name, value in attributes if name in ("src", "href", "data", "action")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data


def test_the_verdict_comes_first_in_one_plain_sentence(run_dir):
    text = " ".join(Page(build_report(run_dir)).text.split())
    sentence = re.search(
        r"Tuning helped: the tuned model picks the right answer to 9\d % of 200 test questions, "
        r"the base model to 2\d %\.",
        text,
    )
    assert sentence
    assert sentence.start() < text.index("Base against tuned")
    assert "Always giving the most frequent answer would be right in 40 %." in text
    assert "were loaded again and behave like the model that was trained" in text


def test_every_part_is_on_the_page(run_dir):
    page = Page(build_report(run_dir))
    text = " ".join(page.text.split())
    for words in (
        "LoRA of rank 16 on a 4-bit (NF4) base", "Right choice", "Bits per byte", "p=0.00", "right only before tuning",
        "Optimizer steps 240", "9.4 GB", "Rows used 3,011", "exact duplicate 97", "mail 12",
        "safetensors Verified", "99.96 %", "3f7a3f7a", "packages.torch 2.13.0",
    ):  # fmt: skip
        assert words in text, words
    drawn = (
        "Right choice, with 95 %", "in percentage points", "in bits per byte", "Loss (nats", "Tokens per second",
        "Peak memory (GB)", "Gradient norm", "Learning rate", "Memory at the peak", "What became of the rows",
    )  # fmt: skip
    assert page.tags.count("svg") == 2 * len(drawn)  # each for two widths
    for title in drawn:
        assert text.count(title) >= 2, title
    assert text.count("Data of this figure") == len(drawn)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("content", [None, "", "[1, 2", '{"main_metric": "x"}', "\x00\xff"])
def test_a_missing_or_damaged_file_empties_its_part_only(run_dir, part, content):
    path = run_dir / part
    path.unlink() if content is None else path.write_bytes(content.encode("latin-1"))
    page = Page(build_report(run_dir))
    assert "Configuration and versions" in page.text
    build_model_card(run_dir)
    if content == "[1, 2" and part != "metrics.jsonl":
        assert part in page.text
    if content is None and part == "evaluation/summary.json":
        assert "base and tuned model have not been compared" in page.text


def test_an_empty_folder_still_gives_a_page(tmp_path):
    text = Page(build_report(tmp_path)).text
    assert text.count("is missing or damaged") == 6
    assert "Packages and machine" not in text
    assert "# " in build_model_card(tmp_path)


def test_text_of_users_is_escaped_and_nothing_is_loaded(tmp_path):
    items = [
        ItemScore(item_id=ATTACK, cluster_id="a", model=model, metric="exact_match", value=float(model == "base"))
        for model in ("base", "tuned", ATTACK)
    ]
    html = build_report(make_run(tmp_path / "run <b>", items=items, note=ATTACK))
    page = Page(html)
    assert page.text.count(ATTACK) >= 6
    assert not {"script", "link", "img", "iframe", "object", "b>"} & set(page.tags)
    assert all(address.startswith("#") for address in page.addresses)
    assert not re.search(r"url\(|@import|\bon\w+=", html)


def test_examples_stand_side_by_side(run_dir):
    make_examples(run_dir)
    text = " ".join(Page(build_report(run_dir)).text.split())
    assert text.index("Lost: the base model did better") < text.index("Won: the tuned model does better")
    assert re.search(
        r"Base choice (right|wrong) I cannot say Tuned choice (right|wrong) Delaware gguf_q4_k_m the State of", text
    )


def test_no_text_of_a_row_stands_in_a_report_without_examples(run_dir):
    secret = "Mrs Featherstonehaugh"
    make_examples(run_dir, secret)
    (run_dir / "data/preview.html").write_text(f"<p>{secret}</p>")
    ledger = json.loads((run_dir / "data/ledger.json").read_text())
    ledger["examples"] = {"empty_answer": [{"source": f"{secret}.docx", "detail": secret}]}
    ledger["contamination"] = {
        "test": {
            "items": 200, "items_not_compared": 0, "contaminated": 1, "longest_match_words": 14, "item_ids": [secret],
            "examples": [{"item": secret, "source": "train:1", "words": 14, "excerpt": secret}],
        }
    }  # fmt: skip
    (run_dir / "data/ledger.json").write_text(json.dumps(ledger))
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    config["data"] |= {"system": secret, "prompt": f"{secret}: {{question}}"}
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
    items = (run_dir / "evaluation/items.jsonl").read_text().replace("cuad-", secret)
    (run_dir / "evaluation/items.jsonl").write_text(items)
    assert build_report(run_dir).count(secret) >= 10
    hidden = build_report(run_dir, examples=False)
    assert secret not in hidden
    assert secret not in build_model_card(run_dir)
    assert "report.examples=false" in hidden
    assert "right only before tuning" in hidden


def test_a_calibration_curve_is_drawn_where_the_summary_has_one(run_dir):
    assert "how sure the model is" not in build_report(run_dir)
    make_calibration(run_dir)
    html = build_report(run_dir)
    assert "how sure the model is" in html
    assert "<td>0.2 to 0.3</td><td>7</td><td>0.250</td><td>0.150</td>" in html


def test_a_failed_export_is_said_at_the_top(run_dir):
    path = run_dir / "export/verification.json"
    found = json.loads(path.read_text())
    found["safetensors"] |= {"passed": False, "reason": "the tokenizer differs"}
    path.write_text(json.dumps(found))
    text = " ".join(Page(build_report(run_dir)).text.split())
    warning = text.index("Do not use the exported files (safetensors)")
    assert warning < text.index("Base against tuned")
    assert "the tokenizer differs" in text


def explain(**rates):
    return wording.explain(summary.summarise(make_items(**rates), EvaluationConfig(bootstrap_samples=500)))


def test_what_the_verdicts_say():
    worse = explain(base_rate=0.9, tuned_rate=0.5)
    assert (worse.verdict, worse.headline.split(":")[0]) == ("worse", "Tuning did harm")
    unsure = explain(num_items=20, base_rate=0.5, tuned_rate=0.6)
    assert unsure.verdict == "not_enough_data"
    assert "too small to tell" in unsure.headline
    assert unsure.remarks[-1] == "Measured by bits per byte, it became better."
    nothing = wording.explain(None)
    assert (nothing.verdict, nothing.remarks) == ("unknown", ())
    beaten = explain(base_rate=0.1, tuned_rate=0.38)
    assert "that the tuned model has learnt more than this is not shown" in " ".join(beaten.remarks)


def test_a_verdict_on_bits_says_that_less_is_better():
    items = [item for item in make_items() if item.metric == "bits_per_byte"]
    found = wording.explain(summary.summarise(items, EvaluationConfig(bootstrap_samples=500)))
    assert found.verdict == "better"
    assert re.search(r"% fewer; less is better\)\.$", found.headline)
    assert "−1." in found.remarks[0]


@pytest.mark.parametrize(
    ("share", "text"), [(0, "0 %"), (0.004, "0.4 %"), (0.5, "50 %"), (0.996, "99.6 %"), (1, "100 %")]
)
def test_shares_are_not_rounded_to_certainty(share, text):
    assert wording.percent(share) == text


def test_the_model_card_has_the_metadata_and_the_numbers(run_dir):
    card = build_model_card(run_dir)
    _, front, body = card.split("---\n", 2)
    metadata = yaml.safe_load(front)
    assert metadata["license"] == "apache-2.0"
    assert metadata["base_model"] == "Qwen/Qwen3-8B"
    assert "Tuning helped: " in body
    assert re.search(r"\| choice_accuracy \| 2\d\.\d % \(.* \| better \| 200 \|\n", body)
    for heading in ("Model", "Training data", "Evaluation", "Intended use", "Limits"):
        assert f"## {heading}\n" in body
    assert 'from_pretrained("Qwen/Qwen3-8B", revision="b968826d9c46dd6066d109eabc6255188de91218")' in body
    rows = [line for line in body.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in rows)


def test_charts_leave_out_what_is_no_number():
    line = charts.Line(name="loss", css_class="x", points=[(0, 1.0), (1, float("nan")), (2, 0.5)])
    drawn = charts.line_chart([line], width=340, x_name="step", y_name="loss")
    assert "nan" not in drawn
    assert drawn.count(",") >= 2
    assert charts.line_chart([], width=340, x_name="step", y_name="loss") == ""
    flat = charts.Line(name="loss", css_class="x", points=[(5, 1.0)])
    assert "<circle" in charts.line_chart([flat], width=340, x_name="step", y_name="loss")


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.2, 17), (0.001, 0.0017), (5, 5), (0, 0), (0, 12345)])
def test_ticks_are_round_and_span_the_values(low, high):
    ticks = svg.nice_ticks(low, high, 5)
    assert ticks[0] <= low <= high <= ticks[-1]
    assert 2 <= len(ticks) <= 8
    labels = svg.tick_labels(ticks)
    assert len(set(labels)) == len(labels)
