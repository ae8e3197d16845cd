"""The medical sample set: classes of drugs, reading of laboratory values and triage, from hand-written cores.

Called by scripts/build_sample_data. What decides generalisation is divided before anything is drawn: laboratory tests,
presentations and wordings by hand (medical_labs.py, medical_vignettes*.py), drugs (medical_drugs.py) by the seed.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence

import medical_drugs
import medical_labs
import medical_vignettes
import medical_vignettes_held_out
from medical_labs import LabTest

Row = dict[str, object]

SPLITS = ("train", "validation", "test")
NUM_DRUG_OPTIONS = 4
HELD_OUT_SHARES = {"test": 0.25, "validation": 0.1}
"""Of the drugs of each class."""
NUM_DRUG_TRAIN_ROWS = 324
READINGS = ("Low", "Normal", "High")
VALUES_PER_READING = {"train": 2, "validation": 1, "test": 1}
NORMAL_MARGIN = 0.3
"""Share of the interval at either end that no normal value comes from."""
LEVELS = ("Emergency", "Urgent", "Routine")
PATIENTS_PER_PRESENTATION = {"train": 2, "validation": 1, "test": 1}

PRESENTATIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "train": {
        "Emergency": medical_vignettes.TRAIN_EMERGENCY,
        "Urgent": medical_vignettes.TRAIN_URGENT,
        "Routine": medical_vignettes.TRAIN_ROUTINE,
    },
    "validation": {
        "Emergency": medical_vignettes_held_out.VALIDATION_EMERGENCY,
        "Urgent": medical_vignettes_held_out.VALIDATION_URGENT,
        "Routine": medical_vignettes_held_out.VALIDATION_ROUTINE,
    },
    "test": {
        "Emergency": medical_vignettes_held_out.TEST_EMERGENCY,
        "Urgent": medical_vignettes_held_out.TEST_URGENT,
        "Routine": medical_vignettes_held_out.TEST_ROUTINE,
    },
}


def build(seed: int) -> dict[str, list[Row]]:
    """Rows of the three splits; the same seed gives the same rows."""
    drugs = split_drugs(random.Random(f"medical drugs {seed}"))
    splits: dict[str, list[Row]] = {}
    for split in SPLITS:
        rng = random.Random(f"medical {split} {seed}")
        rows = make_drug_rows(split, drugs[split], rng)
        rows += make_lab_rows(split, rng)
        rows += make_triage_rows(split, rng)
        rng.shuffle(rows)
        splits[split] = [{"id": f"medical-{split}-{number:04}"} | row for number, row in enumerate(rows, start=1)]
    return splits


def make_row(task: str, question: str, options: Sequence[str], answer: str, group: str, rng: random.Random) -> Row:
    """One row without its id, the options in random order."""
    shuffled = rng.sample(options, len(options))
    return {"task": task, "question": question, "options": shuffled, "answer": answer, "group": group}


def cycle_shuffled(values: Sequence[str], rng: random.Random) -> Iterator[str]:
    """Every value once in random order, then again, without end."""
    while True:
        yield from rng.sample(values, len(values))


# drug_class


def split_drugs(rng: random.Random) -> dict[str, dict[str, list[str]]]:
    """Divide the drugs of each class among the splits: split -> class -> drugs.

    Names that contain one another (omeprazole, esomeprazole) stay together: the longer would be no test of the stem.
    """
    splits: dict[str, dict[str, list[str]]] = {split: {} for split in SPLITS}
    for drug_class, drugs in medical_drugs.DRUGS_BY_CLASS.items():
        free = {split: round(len(drugs) * share) for split, share in HELD_OUT_SHARES.items()}
        families = group_families(drugs)
        rng.shuffle(families)
        for family in families:
            split = next((split for split, room in free.items() if len(family) <= room), "train")
            if split != "train":
                free[split] -= len(family)
            splits[split].setdefault(drug_class, []).extend(family)
    return splits


def group_families(drugs: Sequence[str]) -> list[list[str]]:
    """Drugs of one class, those whose names contain the same shorter name together."""
    families: dict[str, list[str]] = {}
    for drug in drugs:
        families.setdefault(find_root(drug, drugs), []).append(drug)
    return list(families.values())


def find_root(drug: str, drugs: Sequence[str]) -> str:
    """The shortest name in `drugs` that `drug` contains; itself where there is no shorter one."""
    return min((other for other in drugs if other in drug), key=len)


def make_drug_rows(split: str, drugs: dict[str, list[str]], rng: random.Random) -> list[Row]:
    """One question about each drug; in training a second, the smallest classes first, up to NUM_DRUG_TRAIN_ROWS."""
    asked = [(drug, drug_class) for drug_class, members in drugs.items() for drug in members]
    if split == "train":
        smallest_first = sorted(asked, key=lambda pair: len(drugs[pair[1]]))
        asked += smallest_first[: NUM_DRUG_TRAIN_ROWS - len(asked)]
    wordings = cycle_shuffled(medical_drugs.QUESTIONS[split], rng)
    rows: list[Row] = []
    used: set[str] = set()
    for drug, drug_class in asked:
        question = next(text for wording in wordings if (text := wording.format(drug=drug)) not in used)
        used.add(question)
        others = [name for name in medical_drugs.DRUGS_BY_CLASS if name != drug_class]
        options = [drug_class, *rng.sample(others, NUM_DRUG_OPTIONS - 1)]
        group = f"drug-{find_root(drug, medical_drugs.DRUGS_BY_CLASS[drug_class])}"
        rows.append(make_row("drug_class", question, options, drug_class, group, rng))
    return rows


# reference_range


def make_lab_rows(split: str, rng: random.Random) -> list[Row]:
    """Each laboratory test equally often low, normal and high, at different values."""
    wordings = cycle_shuffled(medical_labs.QUESTIONS[split], rng)
    rows: list[Row] = []
    for test in medical_labs.LAB_TESTS[split]:
        for reading in READINGS:
            for value in draw_values(test, reading, VALUES_PER_READING[split], rng):
                question = ask_reading(next(wordings), test, value)
                group = "lab-" + re.sub(r"[^a-z0-9]+", "-", test.name.lower()).strip("-")
                rows.append(make_row("reference_range", question, READINGS, reading, group, rng))
    return rows


def draw_values(test: LabTest, reading: str, num_values: int, rng: random.Random) -> list[float]:
    """Different values of one reading, on the grid of the test's decimals."""
    low, high = test.interval
    margin = NORMAL_MARGIN * (high - low)
    spans = {"Low": test.low_values, "Normal": (low + margin, high - margin), "High": test.high_values}
    first, last = (round(end * 10**test.decimals) for end in spans[reading])
    return [step / 10**test.decimals for step in rng.sample(range(first, last + 1), num_values)]


def ask_reading(wording: str, test: LabTest, value: float) -> str:
    """The question, with the value and the interval at the same number of decimals."""
    low, high = (f"{end:.{test.decimals}f}" for end in test.interval)
    unit = test.unit if test.unit == "%" else f" {test.unit}".rstrip()
    return wording.format(
        name=test.name,
        name_capital=test.name[0].upper() + test.name[1:],
        value=f"{value:.{test.decimals}f}{unit}",
        low=low,
        high=high,
    )


# triage


def make_triage_rows(split: str, rng: random.Random) -> list[Row]:
    """Each presentation with one patient; in training with two, in two wordings."""
    wordings = cycle_shuffled(medical_vignettes.QUESTIONS[split], rng)
    rows: list[Row] = []
    for level in LEVELS:
        for number, presentation in enumerate(PRESENTATIONS[split][level], start=1):
            group = f"triage-{split}-{level.lower()}-{number:02}"
            for vignette in draw_vignettes(presentation, PATIENTS_PER_PRESENTATION[split], rng):
                question = next(wordings).format(vignette=vignette)
                rows.append(make_row("triage", question, LEVELS, level, group, rng))
    return rows


def draw_vignettes(presentation: str, num_vignettes: int, rng: random.Random) -> list[str]:
    """The presentation with patients of different ages that it fits."""
    kind, predicate = presentation.split(": ", 1)
    patient = medical_vignettes.PATIENTS[kind]
    ages = rng.sample(range(patient.ages[0], patient.ages[1] + 1), num_vignettes)
    wordings = cycle_shuffled(patient.wording, rng)
    return [f"{article(age)} {next(wordings).format(age=age)} {predicate}" for age in ages]


def article(age: int) -> str:
    """`An` before eight, eleven, eighteen and the eighties."""
    return "An" if age in (8, 11, 18) or 80 <= age <= 89 else "A"


CARD = """
# Medical sample set

Short questions with one right answer each, for trying out and testing fine-tuning. Textbook knowledge only, simplified.
**Not medical advice, and no basis for any decision about a patient.**

- Source: written by hand for this project; no patient data, nothing copied from another data set.
- Licence: Apache-2.0, like the rest of the repository.
- Language: English, American spelling; conventional units.

## Tasks

- `drug_class`: a generic drug name; its class among four. The classes are those whose names share a stem (`-olol`: beta
  blocker), so that what is learnt carries over to names that have not been seen.
- `reference_range`: an adult's laboratory value and its reference interval; low, normal or high. Values lie well away
  from the ends of the interval. Intervals are common adult ones; laboratories differ, and the question's own counts.
- `triage`: one or two sentences about a patient. *Emergency*: life, limb, an organ or sight may be threatened now.
  *Urgent*: to be seen the same day. *Routine*: a planned visit or self-care. Only clear-cut presentations.

{counts}

## Fields

One JSON object a line: `id`; `task`; `question`, the full text that the model is asked; `options`, the candidate
answers in random order; `answer`, one of them, word for word; `group`, the drug (or the shorter drug name that its name
contains), the laboratory test or the presentation that the item is made from.

## What no two splits share

- Drugs. Names that contain one another (omeprazole, esomeprazole) stay in one split too. All splits share the classes.
- Laboratory tests.
- Presentations. The words for red flags ("slurred speech", "bleeding that does not stop") occur in all splits.
- Wordings of the question, in all three tasks.

So `group` never stands in two splits, and no question is repeated. Split the items by `group` when dividing them anew.

## How made

`scripts/build_sample_data` fills the hand-written cores in `scripts/sample_data/medical*.py`; the seed decides which
drugs are held out, the wording, the values, ages and the order of items and options. `scripts/build_sample_data
--check` says whether these files are what the script makes. To check an item by eye: the last syllables of the drug
name, the number against the interval, the red flag in the vignette.

## Limits

- A stem is a rule with exceptions (aripiprazole is no proton pump inhibitor); the exceptions are left out here, and
  some of the drugs are no longer sold.
- Real triage weighs vital signs, history and examination; here one or two findings decide.
- Laboratory reading here is a comparison of numbers. A value outside an interval is not in itself a disease.
- A score here says that fine-tuning works, not that a model knows medicine.
"""
