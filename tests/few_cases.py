"""The marker `few(count, rest="slow")`: a test's first `count` cases stay in their tier, the rest go to another."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest


def send_on(items: Iterable[pytest.Item]) -> None:
    """Mark the further cases of each test that is marked `few`."""
    seen: Counter[tuple[Path, str]] = Counter()
    for item in items:
        few = item.get_closest_marker("few")
        if few is not None:
            test = (item.path, item.name.partition("[")[0])
            seen[test] += 1
            if seen[test] > few.args[0]:
                item.add_marker(few.kwargs.get("rest", "slow"))
