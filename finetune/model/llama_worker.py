"""Runs one GGUF file in llama.cpp, in a process of its own. Started by llama_cpp.py.

llama.cpp ends the whole process where it finds a file that it cannot read; here that is this process alone.

It is called through llama.h as the xllamacpp wheel exports it. Structures go in and out as opaque bytes, longer than
any of them: they are the last argument, so that the surplus is never read. The few fields that are set are the first
ones of `llama_context_params`; their default values are checked before.

One JSON line in per request, one JSON line out, `num_bytes` of which announces that raw bytes follow.
"""

import ctypes
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

BATCH_TOKENS = 512
"""Tokens of one call of llama_decode."""

CONTEXT_DEFAULTS = (512, 2048, 512, 1)
"""What llama.h gives for n_ctx, n_batch, n_ubatch, n_seq_max: tells whether the structure is the one known here."""


class Refused(Exception):
    """The request cannot be fulfilled; the text says why."""


class _Opaque(ctypes.Structure):
    _fields_ = (("words", ctypes.c_uint64 * 64),)


class _Batch(ctypes.Structure):
    """llama_batch."""

    _fields_ = (
        ("n_tokens", ctypes.c_int32),
        ("token", ctypes.POINTER(ctypes.c_int32)),
        ("embd", ctypes.POINTER(ctypes.c_float)),
        ("pos", ctypes.POINTER(ctypes.c_int32)),
        ("n_seq_id", ctypes.POINTER(ctypes.c_int32)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(ctypes.c_int32))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    )


_LOG = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_POINTERS = (
    "llama_model_load_from_file", "llama_init_from_model", "llama_model_get_vocab", "llama_get_memory",
    "llama_adapter_lora_init",    "llama_model_chat_template",
)  # fmt: skip
_ERROR_LEVEL = 4


class Model:
    """A loaded file and one sequence in its context; tokens that two requests begin with alike are computed once."""

    def __init__(self, path: str, lora: str | None, context: int, num_threads: int) -> None:
        self._messages: list[str] = []
        self._lib = lib = _library()
        self._log = _LOG(self._take_log)
        lib.llama_log_set(self._log, None)
        lib.llama_backend_init()
        self._model = ctypes.c_void_p(
            lib.llama_model_load_from_file(os.fsencode(path), lib.llama_model_default_params())
        )
        if not self._model:
            raise Refused(self._reason("llama.cpp cannot load it"))
        params = lib.llama_context_default_params()
        fields = np.frombuffer(params, dtype=np.uint32)
        if tuple(fields[:4].tolist()) != CONTEXT_DEFAULTS:
            raise Refused("this version of xllamacpp is not known; install the one that the extra names")
        self.trained_context = int(lib.llama_model_n_ctx_train(self._model))
        self.context = min(context, self.trained_context) if context else self.trained_context
        fields[:3] = (self.context, BATCH_TOKENS, BATCH_TOKENS)
        self._context = ctypes.c_void_p(lib.llama_init_from_model(self._model, params))
        if not self._context:
            raise Refused(self._reason("llama.cpp cannot run it"))
        if lora is not None:
            self._add_lora(lora)
        lib.llama_set_n_threads(self._context, num_threads, num_threads)
        self._vocab = ctypes.c_void_p(lib.llama_model_get_vocab(self._model))
        self.vocab_size = int(lib.llama_vocab_n_tokens(self._vocab))
        self._memory = ctypes.c_void_p(lib.llama_get_memory(self._context))
        self._seen: list[int] = []
        self._batch: _Batch = lib.llama_batch_init(BATCH_TOKENS, 0, 1)

    def _add_lora(self, path: str) -> None:
        adapter = ctypes.c_void_p(self._lib.llama_adapter_lora_init(self._model, os.fsencode(path)))
        if not adapter:
            raise Refused(self._reason("llama.cpp cannot load the adapter"))
        scale = ctypes.c_float(1)
        if self._lib.llama_set_adapters_lora(
            self._context, ctypes.byref(adapter), ctypes.c_size_t(1), ctypes.byref(scale)
        ):
            raise Refused(self._reason("llama.cpp cannot use the adapter"))

    def facts(self) -> dict[str, Any]:
        """What the file says about itself."""
        lib, vocab = self._lib, self._vocab
        template = lib.llama_model_chat_template(self._model, None)
        return {
            "vocab_size": self.vocab_size,
            "context": self.context,
            "trained_context": self.trained_context,
            "add_bos": bool(lib.llama_vocab_get_add_bos(vocab)),
            "add_eos": bool(lib.llama_vocab_get_add_eos(vocab)),
            "bos": lib.llama_vocab_bos(vocab),
            "eos": lib.llama_vocab_eos(vocab),
            "eot": lib.llama_vocab_eot(vocab),
            "ends": [token for token in range(self.vocab_size) if lib.llama_vocab_is_eog(vocab, token)],
            "chat_template": ctypes.string_at(template).decode() if template else None,
        }

    def tokenize(self, text: str, *, add_special: bool) -> list[int]:
        """Token ids of a text; control tokens in it are taken as such."""
        content = text.encode()
        room = len(content) + 16
        ids = (ctypes.c_int32 * room)()
        count = self._lib.llama_tokenize(
            self._vocab, content, len(content), ids, room, ctypes.c_bool(add_special), ctypes.c_bool(True)
        )
        if count < 0:
            raise Refused(f"llama.cpp cannot tokenise {text[:60]!r}")
        return list(ids[:count])

    def logits(self, ids: list[int], first: int) -> np.ndarray[Any, Any]:
        """Logits (T - first, V) of the positions from `first` on, float32."""
        if len(ids) > self.context:
            raise Refused(f"{len(ids)} tokens are more than the context of {self.context}")
        shared = 0
        limit = min(len(ids), len(self._seen), first)
        while shared < limit and ids[shared] == self._seen[shared]:
            shared += 1
        self._forget(shared)
        starts = range(shared, len(ids), BATCH_TOKENS)
        return np.concatenate([self._decode(ids[at : at + BATCH_TOKENS], at, first) for at in starts])

    def score(self, ids: list[int], mask: list[bool]) -> float:
        """Summed log-probability in nats of the tokens whose mask is set; the first token has none."""
        places = [place for place, is_scored in enumerate(mask) if is_scored and place]
        if not places:
            return 0.0
        first = places[0] - 1
        logits = self.logits(ids[:-1], first).astype(np.float64)[[place - 1 - first for place in places]]
        top = logits.max(axis=1)
        sums = np.log(np.exp(logits - top[:, None]).sum(axis=1)) + top
        return float((logits[np.arange(len(places)), [ids[place] for place in places]] - sums).sum())

    def generate(self, ids: list[int], most: int, ends: list[int]) -> tuple[list[int], float]:
        """The most likely continuation, and how many seconds each of its tokens took on average."""
        tokens: list[int] = []
        token = int(self.logits(ids, len(ids) - 1)[0].argmax())
        started = time.perf_counter()
        while True:
            tokens.append(token)
            if token in ends or len(tokens) >= most or len(self._seen) >= self.context:
                return tokens, (time.perf_counter() - started) / max(1, len(tokens) - 1)
            token = int(self._decode([token], len(self._seen), 0)[0].argmax())

    def _forget(self, keep: int) -> None:
        if keep < len(self._seen) and not self._lib.llama_memory_seq_rm(self._memory, 0, keep, -1):
            self._lib.llama_memory_clear(self._memory, ctypes.c_bool(True))
            self._seen = []
            return
        del self._seen[keep:]

    def _decode(self, tokens: list[int], start: int, first: int) -> np.ndarray[Any, Any]:
        batch = self._batch
        batch.n_tokens = len(tokens)
        wanted = 0
        for place, token in enumerate(tokens):
            batch.token[place] = token
            batch.pos[place] = start + place
            batch.n_seq_id[place] = 1
            batch.seq_id[place][0] = 0
            batch.logits[place] = start + place >= first
            wanted += start + place >= first
        if self._lib.llama_decode(self._context, batch):
            raise Refused(self._reason("llama.cpp cannot compute"))
        self._seen += tokens
        if not wanted:
            return np.empty((0, self.vocab_size), dtype=np.float32)
        found = self._lib.llama_get_logits(self._context)
        return np.ctypeslib.as_array(found, (wanted, self.vocab_size)).copy()

    def _take_log(self, level: int, text: bytes | None, _: object) -> None:
        if level == _ERROR_LEVEL and text:
            self._messages.append(text.decode(errors="replace").strip())

    def _reason(self, what: str) -> str:
        told = next((text for text in self._messages if "error" in text.lower()), " ".join(self._messages[:1]))
        return f"{what}: {told.split('error loading model: ')[-1]}" if told else what


def _library() -> ctypes.CDLL:
    import importlib.util

    spec = importlib.util.find_spec("xllamacpp")  # found, not imported: its own start-up costs a second
    assert spec is not None and spec.origin is not None
    lib = ctypes.CDLL(str(next(Path(spec.origin).parent.glob("xllamacpp*.so"))))
    for name in _POINTERS:
        getattr(lib, name).restype = ctypes.c_void_p
    for name in ("llama_model_default_params", "llama_context_default_params"):
        getattr(lib, name).restype = _Opaque
    lib.llama_batch_init.restype = _Batch
    lib.llama_get_logits.restype = ctypes.POINTER(ctypes.c_float)
    for name in ("llama_vocab_get_add_bos", "llama_vocab_get_add_eos", "llama_vocab_is_eog", "llama_memory_seq_rm"):
        getattr(lib, name).restype = ctypes.c_bool
    return lib


def check_library() -> None:
    """Load llama.cpp and check that its structures are the ones known here; for `doctor`, in a process of its own.

    Raises:
        Refused: the installed xllamacpp is another version.
        OSError: its shared object cannot be loaded.
    """
    fields = np.frombuffer(_library().llama_context_default_params(), dtype=np.uint32)
    if tuple(fields[:4].tolist()) != CONTEXT_DEFAULTS:
        raise Refused("this version of xllamacpp is not known; install the one that the extra names")


def _answer(stream: BinaryIO, message: dict[str, Any], content: bytes = b"") -> None:
    stream.write(json.dumps(message | {"num_bytes": len(content)}).encode() + b"\n" + content)
    stream.flush()


def _serve(request: dict[str, Any], model: Model | None) -> tuple[Model, dict[str, Any], bytes]:
    kind = request["kind"]
    if kind == "load":
        model = Model(request["path"], request["lora"], request["context"], request["num_threads"])
        return model, model.facts(), b""
    assert model is not None
    if kind == "tokenize":
        found = [model.tokenize(text, add_special=request["add_special"]) for text in request["texts"]]
        return model, {"ids": found}, b""
    if kind == "logits":
        logits = model.logits(request["ids"], request["first"])
        return model, {"shape": logits.shape}, logits.tobytes()
    if kind == "score":
        return model, {"value": model.score(request["ids"], request["mask"])}, b""
    tokens, seconds = model.generate(request["ids"], request["most"], request["ends"])
    return model, {"tokens": tokens, "seconds_per_token": seconds}, b""


def main() -> None:
    """Answer requests until the parent closes the pipe."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints goes elsewhere
    model: Model | None = None
    while line := sys.stdin.buffer.readline():
        try:
            model, message, content = _serve(json.loads(line), model)
            _answer(answers, message, content)
        except Refused as refused:
            _answer(answers, {"refused": str(refused)})


if __name__ == "__main__":
    main()
