"""Laboratory tests with adult reference intervals, and the ways to ask for the reading; read by medical.py.

Intervals are common adult ones; laboratories differ, which is why every question states its interval. `low_values` and
`high_values` are spans that are plausible in patients and lie well away from the interval.
"""

from typing import NamedTuple


class LabTest(NamedTuple):
    """One laboratory test: its interval, and spans from which abnormal values are drawn."""

    name: str
    unit: str
    decimals: int
    interval: tuple[float, float]
    low_values: tuple[float, float]
    high_values: tuple[float, float]


COUNT = "x10^9/L"

LAB_TESTS: dict[str, tuple[LabTest, ...]] = {
    "train": (
        LabTest("serum sodium", "mmol/L", 0, (135, 145), (112, 127), (153, 168)),
        LabTest("serum potassium", "mmol/L", 1, (3.5, 5.0), (2.0, 2.9), (6.0, 7.4)),
        LabTest("serum chloride", "mmol/L", 0, (98, 106), (76, 89), (116, 128)),
        LabTest("serum calcium", "mg/dL", 1, (8.5, 10.5), (5.6, 7.2), (12.4, 15.8)),
        LabTest("serum magnesium", "mg/dL", 1, (1.7, 2.2), (0.7, 1.2), (3.2, 5.6)),
        LabTest("fasting plasma glucose", "mg/dL", 0, (70, 99), (31, 52), (180, 420)),
        LabTest("serum creatinine", "mg/dL", 1, (0.6, 1.2), (0.2, 0.4), (2.3, 7.8)),
        LabTest("serum uric acid", "mg/dL", 1, (3.5, 7.2), (1.0, 2.2), (9.8, 13.6)),
        LabTest("total serum protein", "g/dL", 1, (6.0, 8.3), (3.4, 4.7), (10.2, 12.8)),
        LabTest("alkaline phosphatase", "U/L", 0, (44, 147), (11, 25), (290, 760)),
        LabTest("lactate dehydrogenase", "U/L", 0, (140, 280), (58, 98), (520, 1450)),
        LabTest("creatine kinase", "U/L", 0, (30, 200), (9, 17), (720, 9400)),
        LabTest("hematocrit (man)", "%", 0, (41, 50), (19, 31), (58, 67)),
        LabTest("white blood cell count", COUNT, 1, (4.0, 11.0), (0.6, 2.4), (18.0, 48.0)),
        LabTest("mean corpuscular volume", "fL", 0, (80, 100), (57, 70), (114, 129)),
        LabTest("mean corpuscular hemoglobin", "pg", 0, (27, 33), (17, 22), (38, 43)),
        LabTest("lymphocyte count", COUNT, 1, (1.0, 4.0), (0.1, 0.5), (8.0, 64.0)),
        LabTest("activated partial thromboplastin time", "s", 0, (25, 35), (16, 20), (56, 115)),
        LabTest("antithrombin activity", "%", 0, (80, 120), (28, 57), (145, 165)),
        LabTest("thyroid-stimulating hormone", "mIU/L", 2, (0.40, 4.00), (0.01, 0.12), (9.50, 64.00)),
        LabTest("free triiodothyronine", "pg/mL", 1, (2.3, 4.2), (0.9, 1.6), (7.2, 15.5)),
        LabTest("morning cortisol", "ug/dL", 0, (5, 25), (1, 2), (40, 74)),
        LabTest("parathyroid hormone", "pg/mL", 0, (10, 65), (2, 5), (140, 720)),
        LabTest("serum vitamin B12", "pg/mL", 0, (200, 900), (62, 135), (1400, 2100)),
        LabTest("serum iron", "ug/dL", 0, (60, 170), (11, 36), (240, 390)),
        LabTest("transferrin saturation", "%", 0, (20, 50), (3, 11), (70, 96)),
        LabTest("serum osmolality", "mOsm/kg", 0, (275, 295), (232, 258), (318, 364)),
        LabTest("arterial pH", "", 2, (7.35, 7.45), (6.92, 7.22), (7.54, 7.68)),
        LabTest("arterial oxygen pressure", "mmHg", 0, (75, 100), (36, 56), (160, 410)),
        LabTest("serum copper", "ug/dL", 0, (70, 140), (18, 46), (205, 290)),
        LabTest("immunoglobulin G", "mg/dL", 0, (700, 1600), (140, 440), (2400, 5200)),
        LabTest("complement C3", "mg/dL", 0, (90, 180), (24, 58), (235, 290)),
        LabTest("24-hour urine calcium", "mg", 0, (100, 300), (18, 55), (430, 720)),
        LabTest("cerebrospinal fluid glucose", "mg/dL", 0, (45, 80), (7, 28), (125, 195)),
        LabTest("factor VIII activity", "%", 0, (50, 150), (2, 27), (230, 350)),
        LabTest("luteinizing hormone (man)", "IU/L", 1, (1.7, 8.6), (0.2, 0.7), (19.0, 42.0)),
    ),
    "validation": (
        LabTest("serum bicarbonate", "mmol/L", 0, (22, 28), (7, 15), (36, 44)),
        LabTest("red blood cell count (woman)", "x10^12/L", 1, (3.8, 5.1), (1.9, 2.9), (6.4, 7.6)),
        LabTest("adrenocorticotropic hormone", "pg/mL", 0, (10, 60), (1, 4), (130, 420)),
        LabTest("serum transferrin", "mg/dL", 0, (200, 360), (85, 145), (470, 570)),
        LabTest("immunoglobulin A", "mg/dL", 0, (70, 400), (9, 38), (650, 1600)),
        LabTest("alpha-1 antitrypsin", "mg/dL", 0, (90, 200), (18, 58), (280, 370)),
        LabTest("24-hour urine sodium", "mmol", 0, (40, 220), (6, 20), (310, 430)),
    ),
    "test": (
        LabTest("ionized calcium", "mmol/L", 2, (1.12, 1.32), (0.74, 0.95), (1.56, 1.92)),
        LabTest("serum phosphate", "mg/dL", 1, (2.5, 4.5), (0.8, 1.7), (6.4, 9.8)),
        LabTest("blood urea nitrogen", "mg/dL", 0, (7, 20), (2, 4), (42, 118)),
        LabTest("serum albumin", "g/dL", 1, (3.5, 5.0), (1.5, 2.5), (5.9, 6.3)),
        LabTest("serum amylase", "U/L", 0, (30, 110), (7, 16), (340, 1280)),
        LabTest("hemoglobin (man)", "g/dL", 1, (13.5, 17.5), (6.0, 10.4), (19.6, 22.8)),
        LabTest("platelet count", COUNT, 0, (150, 400), (12, 88), (620, 1150)),
        LabTest("neutrophil count", COUNT, 1, (1.8, 7.5), (0.2, 0.9), (14.0, 33.0)),
        LabTest("plasma fibrinogen", "mg/dL", 0, (200, 400), (48, 125), (640, 980)),
        LabTest("free thyroxine", "ng/dL", 1, (0.8, 1.8), (0.2, 0.4), (3.3, 6.4)),
        LabTest("serum 25-hydroxyvitamin D", "ng/mL", 0, (30, 100), (6, 16), (155, 230)),
        LabTest("total iron-binding capacity", "ug/dL", 0, (240, 450), (110, 175), (560, 710)),
        LabTest("serum ferritin (man)", "ng/mL", 0, (30, 300), (4, 14), (720, 3600)),
        LabTest("arterial carbon dioxide pressure", "mmHg", 0, (35, 45), (15, 26), (61, 98)),
        LabTest("serum zinc", "ug/dL", 0, (60, 120), (22, 42), (180, 250)),
        LabTest("immunoglobulin M", "mg/dL", 0, (40, 230), (7, 24), (430, 2100)),
        LabTest("serum haptoglobin", "mg/dL", 0, (30, 200), (4, 14), (310, 430)),
        LabTest("total testosterone (man)", "ng/dL", 0, (300, 1000), (55, 180), (1500, 2300)),
    ),
}

QUESTIONS: dict[str, tuple[str, ...]] = {
    "train": (
        "An adult's {name} is {value}. The reference interval is {low} to {high}. Low, normal or high?",
        "Result: {name} {value}; reference interval {low} to {high}. How does it read?",
        "The {name} is {value}, and the reference interval is {low} to {high}. Is this low, normal or high?",
        "Laboratory report: {name} {value} (reference interval {low} to {high}). Classify the result.",
        "The report gives {value} for {name}; the interval is {low} to {high}. How is the result read?",
        "{name_capital} came back at {value}, interval {low} to {high}. How should the result be classified?",
    ),
    "validation": (
        "{name_capital} was measured at {value}, reference interval {low} to {high}. Low, normal or high?",
        "{name_capital} is reported as {value} (interval {low} to {high}). Interpret the result.",
    ),
    "test": (
        "The laboratory measured {name} at {value}. The reference interval is {low} to {high}. How should it be read?",
        "Test result: {name} {value} (reference interval {low} to {high}). Is the result low, normal or high?",
        "A patient's {name} is {value}; the interval is {low} to {high}. Classify this result.",
    ),
}
"""Ways to ask; each split has its own. The value always comes before the interval."""
