"""Finds llama.cpp's converter: in the folder FINETUNE_LLAMA_CPP, or in the source archive of llama-cpp-python.

The archive is fetched once, by `python llama_cpp_sources.py <folder>` in a process of its own, since the tests' own
open no sockets; what the converter needs of it stays in the user's cache folder.
"""

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import urllib.request
from pathlib import Path
from urllib.parse import urljoin

PACKAGE, VERSION = "llama-cpp-python", "0.3.36"
SHA256 = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"
INSIDE = f"{PACKAGE.replace('-', '_')}-{VERSION}/vendor/llama.cpp/"
WANTED = ("convert_hf_to_gguf.py", "conversion/", "gguf-py/gguf/", "LICENSE")


def find_sources() -> Path | str:
    """Return the folder that holds convert_hf_to_gguf.py, or why there is none."""
    named = os.environ.get("FINETUNE_LLAMA_CPP")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(named) if named else cache / "finetune" / "tests" / f"llama.cpp-{VERSION}"
    if (folder / WANTED[0]).is_file():
        return folder
    if named:
        return f"FINETUNE_LLAMA_CPP: {named} holds no {WANTED[0]}"
    done = subprocess.run([sys.executable, __file__, str(folder)], capture_output=True, text=True, timeout=600)
    reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return folder if done.returncode == 0 else f"{PACKAGE} {VERSION} cannot be fetched: {reason}"


def main(folder: Path) -> None:
    """Fetch the archive from the index that pip uses, and unpack what is wanted into `folder`."""
    index = f"{_index().rstrip('/')}/{PACKAGE}/"
    description = urljoin(index, f"../../pypi/{PACKAGE}/json")
    with urllib.request.urlopen(description, timeout=60) as answer:
        found = json.load(answer)
    files = [*found.get("urls", []), *found.get("releases", {}).get(VERSION, [])]
    archive = next((file["url"] for file in files if file["url"].endswith(f"-{VERSION}.tar.gz")), None)
    if archive is None:
        raise SystemExit(f"{description} names no source archive of {VERSION}")
    with urllib.request.urlopen(urljoin(index, archive), timeout=60) as answer:
        content = answer.read()
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise SystemExit(f"{archive} is not the archive that is known")
    folder.parent.mkdir(parents=True, exist_ok=True)
    staged = folder.with_name(f".{folder.name}.{os.getpid()}")
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        for member in tar:
            name = member.name.removeprefix(INSIDE)
            if member.isfile() and name != member.name and name.startswith(WANTED):
                source, path = tar.extractfile(member), staged / name
                assert source is not None
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(source.read())
    try:
        staged.rename(folder)
    except OSError:  # another process was faster
        if not folder.is_dir():
            raise


def _index() -> str:
    command = [sys.executable, "-m", "pip", "config", "get", "global.index-url"]
    told = os.environ.get("PIP_INDEX_URL") or subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return told or "https://pypi.org/simple"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
