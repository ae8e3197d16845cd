"""Runs a GGUF file in llama.cpp, the runtime it is made for (extra `gguf`). Called by the verification of exports.

Shapes: T tokens of one sequence, V vocabulary.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from finetune.errors import ConfigError, ExportError
from finetune.headers import HeaderProblem
from finetune.headers.gguf import check_gguf_header

Numbers = np.ndarray[Any, Any]


def check_runtime(option: str) -> None:
    """Check that llama.cpp is installed, before anything long begins.

    Raises:
        ConfigError: it is not; `option` is what needs it.
    """
    absent = [name for name in ("gguf", "xllamacpp") if importlib.util.find_spec(name) is None]
    if absent:
        raise ConfigError(f"{option}: {' and '.join(absent)} not installed; run pip install 'finetune[gguf]'")


@dataclass(frozen=True, kw_only=True, slots=True)
class GgufFacts:
    """What llama.cpp reads in a file."""

    vocab_size: int
    context: int
    """Longest sequence that can be run here."""
    trained_context: int
    add_bos: bool
    add_eos: bool
    bos: int
    eos: int
    eot: int
    ends: tuple[int, ...]
    """Tokens at which llama.cpp stops."""
    chat_template: str | None


class LlamaCpp:
    """One GGUF file, loaded in a process of its own; a context manager that ends it.

    Raises:
        ExportError: llama.cpp cannot load or run the file; the message has its reason.
    """

    def __init__(
        self, path: Path, *, lora: Path | None = None, context: int = 0, num_threads: int | None = None
    ) -> None:
        """Load `path` with room for `context` tokens (0: as many as the model was made for), and an adapter on it."""
        self._path = path
        for file in (path,) if lora is None else (path, lora):
            try:
                check_gguf_header(file)
            except (HeaderProblem, OSError) as problem:
                raise ExportError(f"{file}: {problem}; write it again") from None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "finetune.model.llama_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        num_threads = num_threads or os.cpu_count() or 1
        try:
            found, _ = self._ask(
                {
                    "kind": "load",
                    "path": str(path),
                    "lora": None if lora is None else str(lora),
                    "context": context,
                    "num_threads": num_threads,
                }
            )
        except BaseException:
            self.close()
            raise
        found["ends"] = tuple(found["ends"])
        self.facts = GgufFacts(**found)

    def tokenize(self, texts: Sequence[str], *, add_special: bool) -> list[list[int]]:
        """Token ids of each text, control tokens taken as such; with `add_special` BOS and EOS as the file says."""
        return self._ask({"kind": "tokenize", "texts": list(texts), "add_special": add_special})[0]["ids"]

    def logits(self, ids: Sequence[int], first: int = 0) -> Numbers:
        """Logits (T - first, V) in float32 of the positions from `first` on."""
        found, content = self._ask({"kind": "logits", "ids": list(ids), "first": first})
        return np.frombuffer(content, dtype=np.float32).reshape(found["shape"])

    def score(self, ids: Sequence[int], mask: Sequence[bool]) -> float:
        """Summed log-probability in nats of the tokens whose mask is set, each after all before it."""
        return self._ask({"kind": "score", "ids": list(ids), "mask": list(mask)})[0]["value"]

    def generate(self, ids: Sequence[int], *, max_new_tokens: int, ends: Sequence[int] = ()) -> tuple[list[int], float]:
        """The most likely continuation up to one of `ends`, and the seconds that each of its tokens took."""
        request = {"kind": "generate", "ids": list(ids), "most": max_new_tokens, "ends": list(ends)}
        found, _ = self._ask(request)
        return found["tokens"], found["seconds_per_token"]

    def _ask(self, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
        pipe_in, pipe_out = self._process.stdin, self._process.stdout
        assert pipe_in is not None and pipe_out is not None
        try:
            pipe_in.write(json.dumps(request).encode() + b"\n")
            pipe_in.flush()
            line = pipe_out.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            raise ExportError(f"{self._path}: llama.cpp ended while it read it{self._last_words()}; the file is broken")
        found = json.loads(line)
        if "refused" in found:
            raise ExportError(f"{self._path}: {found['refused']}")
        num_bytes = found.pop("num_bytes")
        return found, pipe_out.read(num_bytes)

    def _last_words(self) -> str:
        self._process.wait()
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors.read().decode(errors="replace").splitlines() if line.strip()]
        telling = [line for line in lines if "error" in line.lower() or "assert" in line.lower()]
        return f" ({telling[-1] if telling else lines[-1]})" if lines else ""

    def close(self) -> None:
        """End the process."""
        if self._process.poll() is None and self._process.stdin is not None:
            self._process.stdin.close()
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._process.kill()  # it may be in the middle of a long answer
        self.close()
