"""What the legal clauses are filled with, and how a template becomes text; used by legal.py.

Party names, jurisdictions, amounts and dates are split before anything is filled: no name stands in two splits.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class Templates:
    """Hand-written clauses of one kind, one paragraph each, `{a}` and the like to be filled in."""

    train: str
    validation: str
    test: str

    @cached_property
    def by_split(self) -> dict[str, list[str]]:
        """The paragraphs of each split, each on one line."""
        blocks = {"train": self.train, "validation": self.validation, "test": self.test}
        return {
            split: [" ".join(part.split()) for part in block.split("\n\n") if part.strip()]
            for split, block in blocks.items()
        }


@dataclass(frozen=True)
class Jurisdiction:
    """The short name is an answer; `law` reads on from "the laws of"; `seat` is a city in it, as contracts name one."""

    name: str
    law: str
    seat: str


@dataclass(frozen=True)
class Pool:
    """What one split may draw from."""

    parties: tuple[str, ...]
    jurisdictions: tuple[Jurisdiction, ...]
    amounts: tuple[str, ...]
    years: tuple[int, ...]


def names(listed: str) -> tuple[str, ...]:
    """Names from "one|another", over as many lines as they need."""
    return tuple(" ".join(name.split()) for name in listed.split("|"))


def states(*pairs: str) -> tuple[Jurisdiction, ...]:
    """US states from "City, State"."""
    return tuple(Jurisdiction(pair.split(", ")[1], f"the State of {pair.split(', ')[1]}", pair) for pair in pairs)


POOLS = {
    "train": Pool(
        parties=names(
            """Halden Foods|Brightwater Logistics|Kestrel Software|Northgate Systems|Alder Creek Energy|Meridian Labs|
            Castellan Media|Orchard Hill Farms|Pinnacle Freight|Redwood Analytics|Summit Dental|Tidewater Marine|
            Vantage Robotics|Westbrook Capital|Ashford Textiles|Bluestone Mining|Corvus Networks|Dunmore Hotels|
            Eastfield Pharma|Ferro Steel|Granite Insurance|Harborview Realty|Ironwood Tools|Juniper Health|
            Keystone Printing|Larkspur Cosmetics|Monarch Aviation|Novacrest Biotech|Oakmont Furniture|
            Quill Publishing"""
        ),
        jurisdictions=(
            *states(
                "New York, New York",
                "Wilmington, Delaware",
                "Houston, Texas",
                "Chicago, Illinois",
                "Miami, Florida",
                "Boston, Massachusetts",
                "Seattle, Washington",
                "Atlanta, Georgia",
                "Denver, Colorado",
                "Minneapolis, Minnesota",
                "Phoenix, Arizona",
                "Detroit, Michigan",
                "Nashville, Tennessee",
            ),
            Jurisdiction("Pennsylvania", "the Commonwealth of Pennsylvania", "Pittsburgh, Pennsylvania"),
            Jurisdiction("Virginia", "the Commonwealth of Virginia", "Richmond, Virginia"),
            Jurisdiction("Ontario", "the Province of Ontario", "Toronto, Ontario"),
            Jurisdiction("England and Wales", "England and Wales", "London, England"),
            Jurisdiction("Ireland", "Ireland", "Dublin, Ireland"),
            Jurisdiction("Germany", "the Federal Republic of Germany", "Frankfurt, Germany"),
            Jurisdiction("France", "France", "Paris, France"),
            Jurisdiction("Switzerland", "Switzerland", "Geneva, Switzerland"),
            Jurisdiction("Japan", "Japan", "Tokyo, Japan"),
            Jurisdiction("Singapore", "Singapore", "Singapore"),
            Jurisdiction("India", "India", "Mumbai, India"),
        ),
        amounts=("$50,000", "$100,000", "$250,000", "$500,000", "$1,000,000", "$2,000,000", "$5,000,000"),
        years=(2014, 2015, 2016, 2017, 2018, 2019),
    ),
    "validation": Pool(
        parties=names(
            """Amberly Coffee|Beacon Staffing|Copperline Rail|Driftwood Studios|Elmstead Packaging|Foxglove Apparel|
            Glenmore Dairy|Highland Optics|Inverness Labs|Jasper Telecom"""
        ),
        jurisdictions=(
            *states("Baltimore, Maryland", "St. Louis, Missouri", "Hartford, Connecticut", "Salt Lake City, Utah"),
            Jurisdiction("Quebec", "the Province of Quebec", "Montreal, Quebec"),
            Jurisdiction("Luxembourg", "the Grand Duchy of Luxembourg", "Luxembourg"),
            Jurisdiction("New Zealand", "New Zealand", "Auckland, New Zealand"),
            Jurisdiction("Denmark", "Denmark", "Copenhagen, Denmark"),
        ),
        amounts=("$75,000", "$400,000", "$1,500,000"),
        years=(2020, 2021),
    ),
    "test": Pool(
        parties=names(
            """Calloway Motors|Dorset Chemicals|Evergreen Transit|Fairmont Brewing|Gable Roofing|Hollis Security|
            Ivory Lane Imports|Jetstream Cargo|Kingsley Paper|Lumen Diagnostics|Marlowe Pictures|Nimbus Hosting|
            Osprey Ventures|Pelham Foundry|Quartz Wireless|Rosewood Clinics|Sterling Agri|Thornbury Glass"""
        ),
        jurisdictions=(
            *states(
                "San Francisco, California",
                "Las Vegas, Nevada",
                "Newark, New Jersey",
                "Columbus, Ohio",
                "Charlotte, North Carolina",
                "Portland, Oregon",
                "Milwaukee, Wisconsin",
                "Indianapolis, Indiana",
            ),
            Jurisdiction("British Columbia", "the Province of British Columbia", "Vancouver, British Columbia"),
            Jurisdiction("Scotland", "Scotland", "Edinburgh, Scotland"),
            Jurisdiction("New South Wales", "New South Wales, Australia", "Sydney, New South Wales"),
            Jurisdiction("Sweden", "Sweden", "Stockholm, Sweden"),
            Jurisdiction("Spain", "Spain", "Madrid, Spain"),
            Jurisdiction("Belgium", "Belgium", "Brussels, Belgium"),
        ),
        amounts=("$150,000", "$300,000", "$750,000", "$3,000,000"),
        years=(2022, 2023, 2024),
    ),
}

NUMBER_WORDS = {
    2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 10: "ten", 12: "twelve", 15: "fifteen",
    18: "eighteen", 24: "twenty-four", 30: "thirty", 45: "forty-five", 60: "sixty", 90: "ninety",
    120: "one hundred twenty",
}  # fmt: skip
MONTHS = ("January", "March", "April", "June", "July", "September", "October", "December")


def write_number(number: int, in_words: bool) -> str:
    """`30`, or `thirty (30)` as contracts write it."""
    return f"{NUMBER_WORDS[number]} ({number})" if in_words else str(number)


def common_fillings(pool: Pool, rng: random.Random) -> dict[str, str]:
    """One draw for every placeholder that a template may hold; most hold two or three."""
    a, b = rng.sample(pool.parties, 2)
    law = rng.choice(pool.jurisdictions)
    in_words = rng.random() < 0.5
    return {
        "a": a,
        "b": b,
        "law": law.law,
        "seat": law.seat,
        "days": write_number(rng.choice((30, 45, 60, 90, 120)), in_words),
        "few_days": write_number(rng.choice((5, 7, 10, 15)), in_words),
        "months": write_number(rng.choice((6, 12, 18, 24)), in_words),
        "years": write_number(rng.choice((2, 3, 4, 5)), in_words),
        "miles": str(rng.choice((10, 25, 50, 75, 100))),
        "small_percent": f"{rng.choice((1, 2, 3, 5))}%",
        "percent": f"{rng.choice((5, 10, 15, 20, 25))}%",
        "amount": rng.choice(pool.amounts),
        "date": f"{rng.choice(MONTHS)} {rng.randint(1, 28)}, {rng.choice(pool.years)}",
    }


def fill(template: str, fillings: dict[str, str]) -> str:
    """The clause; names are written in capitals where the whole clause is, as conspicuous clauses are in contracts."""
    text = template.format_map(fillings)
    return text.upper() if re.sub(r"{\w+}", "", template).isupper() else text
