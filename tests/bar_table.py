"""The table that `scripts/test faults` ends with: each bar of reliability and security, and how its cases went.

A test names the bar that it proves by `@pytest.mark.bar("R5")`; a pytest plugin by way of tests/conftest.py. Works
under xdist, since a test's bars travel with its reports.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

PROMISES = {
    "R1": "stop + resume = uninterrupted, bit for bit",
    "R2": "a kill loses at most save_steps steps",
    "R3": "a checkpoint is complete or absent",
    "R4": "disk full never costs the last good checkpoint",
    "R5": "SIGTERM, SIGINT: a checkpoint, in every phase",
    "R6": "no update from a loss that is no number",
    "R7": "loss spikes are told, skipped or refused",
    "R8": "out of memory shrinks the micro-batch only",
    "R9": "resume refuses what has changed, by name",
    "R10": "same configuration and seed, same adapter",
    "R11": "configuration errors before any model is loaded",
    "R12": "rows in = rows used + rows rejected",
    "R13": "hostile files cost bounded memory and time",
    "R14": "the export equals the training, or fails",
    "R15": "export and report are atomic and idempotent",
    "S1": "no foreign pickle runs",
    "S2": "no remote code",
    "S3": "recipes are data",
    "S4": "templates sandboxed and hashed",
    "S5": "headers checked before a native parser",
    "S6": "a foreign adapter is checked",
    "S7": "no secret in any file",
    "S8": "offline = no socket, no DNS",
    "S9": "trackers get scalars only",
    "S10": "personal data found, recall stated",
    "S12": "generated code runs in a sandbox, off by default",
    "S13": "locked dependencies, bill of materials",
}
"""Bars that the project's tests must prove; each needs one case at least."""

NO_BAR = "none"
"""Stands for tests below tests/faults that name no bar."""


@dataclass(slots=True)
class Tally:
    """How the cases of one bar went."""

    outcomes: Counter[str] = field(default_factory=Counter)
    reasons: set[str] = field(default_factory=set)
    """Why cases were skipped."""


def bars_of(item: pytest.Item) -> list[str]:
    """Return the bars that a test proves."""
    return list(dict.fromkeys(name for marker in item.iter_markers("bar") for name in marker.args))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--bars", action="store_true", help="run the tests of the bars, and end with their table")


def choose_bars(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Note each test's bars, and with `--bars` leave out the tests that have none.

    Raises:
        pytest.UsageError: a test names a bar that does not exist.
    """
    for item in items:
        bars = bars_of(item)
        unknown = [name for name in bars if name not in PROMISES]
        if unknown:
            raise pytest.UsageError(f"{item.nodeid}: no such bar: {', '.join(unknown)} (tests/bar_table.py)")
        is_fault_test = "faults" in Path(item.nodeid.partition("::")[0]).parts
        item.user_properties += [("bar", name) for name in bars or ([NO_BAR] if is_fault_test else [])]
    if not config.getoption("bars"):
        return
    wanted = [bool(item.user_properties) and not item.get_closest_marker("acceptance") for item in items]
    chosen = [item for item, is_wanted in zip(items, wanted, strict=True) if is_wanted]
    config.hook.pytest_deselected(items=[item for item, is_wanted in zip(items, wanted, strict=True) if not is_wanted])
    items[:] = chosen
    for item in chosen:
        if item.get_closest_marker("gpu") and not _has_gpu():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


class BarTable:
    """Gathers the reports of a session and prints the table; only in the process that prints."""

    def __init__(self) -> None:
        self.tallies: dict[str, Tally] = {name: Tally() for name in PROMISES}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when != "call" and report.passed:
            return
        for name in [value for key, value in report.user_properties if key == "bar"]:
            tally = self.tallies.setdefault(str(name), Tally())
            tally.outcomes[report.outcome] += 1
            if report.skipped and isinstance(report.longrepr, tuple):
                tally.reasons.add(report.longrepr[2].removeprefix("Skipped: "))

    def missing(self) -> list[str]:
        """Name the bars that no case proved."""
        return [name for name in PROMISES if not self.tallies[name].outcomes]

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        is_everything = session.config.args_source is pytest.Config.ArgsSource.TESTPATHS
        narrowed = session.config.option.keyword or session.config.option.markexpr or session.config.option.collectonly
        if is_everything and not narrowed and self.missing() and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        write = terminalreporter.write_line
        terminalreporter.write_sep("=", "bars of reliability and security")
        write(f"{'bar':<5}{'promise':<52}{'cases':>6}{'passed':>8}{'failed':>8}{'skipped':>9}")
        for name, tally in self.tallies.items():
            counts = tally.outcomes
            reasons = f"  {'; '.join(sorted(tally.reasons))}" if tally.reasons else ""
            if not counts and name in PROMISES:
                reasons = "  no case was run"
            row = f"{name:<5}{PROMISES.get(name, 'tests that name no bar'):<52}{counts.total():>6}"
            write(f"{row}{counts['passed']:>8}{counts['failed']:>8}{counts['skipped']:>9}{reasons}")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("bars") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(BarTable(), "bar-table")
