"""Bar R2: kills at random times. The slow tier takes a few of them, the acceptance tier the whole campaign."""

import subprocess
import sys
from pathlib import Path

import pytest

from .kill_campaign import COUNTS, Campaign


@pytest.mark.slow
@pytest.mark.bar("R2")
def test_training_survives_kills_at_random_times(tmp_path: Path) -> None:
    campaign = Campaign("forked", tmp_path, seed=7)
    campaign.prepare()
    assert [kill for kill in campaign.kills(0, 6) if kill.problem] == []


@pytest.mark.acceptance
@pytest.mark.bar("R2")
@pytest.mark.parametrize("kind", COUNTS)
def test_the_whole_campaign_of_kills(kind: str) -> None:
    script = Path(__file__).with_name("kill_campaign.py")
    done = subprocess.run([sys.executable, str(script), "--kind", kind], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{COUNTS[kind]} kills, {COUNTS[kind]} ended in" in done.stdout
