"""Bar R15: export and report killed between any two changes of the file system leave nothing that looks finished."""

import hashlib
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.bar("R15"), pytest.mark.slow]

CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate")
FORMATS = "export.formats=[safetensors]"
KILLS = 8


def at_change(number: int, act: Callable[[int], object]) -> Callable[[], None]:
    """Call `act` before each change of the run folder's tree from this one on."""

    def patch() -> None:
        count = 0

        def hook(event: str, arguments: Any) -> None:
            nonlocal count
            if event in CHANGES and any("/kills" in str(argument) for argument in arguments):
                count += 1
                if count >= number:
                    act(count)

        sys.addaudithook(hook)

    return patch


def hashes(folder: Path) -> dict[str, str]:
    """Return the files of export and report; times and measured speeds stand in two of them."""
    files = [
        path
        for name in ("export", "report.html", "README.md")
        for path in sorted([folder / name, *(folder / name).rglob("*")])
    ]
    kept = [
        path for path in files if path.is_file() and path.name not in ("verification.json", "report.html", "README.md")
    ]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


def test_a_kill_at_any_change_is_made_good_by_the_same_command(runs: Any, tmp_path: Path) -> None:
    folder, kept = runs.path / "kills", tmp_path / "kept"
    assert runs.run("kills", FORMATS).code == 0
    expected = hashes(folder)
    assert "export/safetensors/model.safetensors" in expected and "export/manifest.json" in expected
    for name in ("export", "report.html", "README.md"):
        (shutil.rmtree if (folder / name).is_dir() else os.remove)(folder / name)
    shutil.copytree(folder, kept)
    seen: list[int] = []
    reader, writer = os.pipe()
    assert runs.run("kills", FORMATS, "resume=true", before=at_change(1, lambda n: os.write(writer, b"x"))).code == 0
    os.close(writer)
    total = len(os.read(reader, 65_536))
    assert hashes(folder) == expected and total > KILLS, "done again, the same bytes"
    for number in sorted({1 + place * (total - 1) // (KILLS - 1) for place in range(KILLS)}):
        shutil.rmtree(folder)
        shutil.copytree(kept, folder)
        kill = at_change(number, lambda n: os.kill(os.getpid(), signal.SIGKILL))
        assert runs.run("kills", FORMATS, "resume=true", before=kill).code == -9
        for finished in (folder / "export/safetensors/model.safetensors", folder / "export/manifest.json"):
            name = str(finished.relative_to(folder))
            assert not finished.exists() or hashes(folder)[name] == expected[name]
        assert not (folder / "report.html").exists() or (folder / "report.html").read_text().rstrip().endswith(
            "</html>"
        )
        again = runs.run("kills", FORMATS, "resume=true")
        assert again.code == 0, again.said
        assert hashes(folder) == expected and (folder / "report.html").is_file() and not runs.leftovers("kills")
        seen.append(number)
    assert len(seen) == KILLS
