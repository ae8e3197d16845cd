"""Asks llama.cpp's own tokenizer, in a process of its own: an abort in there must not end the tests.

`ask(gguf, texts)` starts this very file, which loads the vocabulary of a GGUF file through the C API that the shared
object of xllamacpp exports.
"""

import ctypes
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_VOCAB_ONLY = 72
"""Offset in bytes of `vocab_only` in llama_model_params: two pointers, five 32-bit fields with their padding, four
pointers. `_model_params` checks the defaults of the fields around it."""


@dataclass(frozen=True)
class Answers:
    """What llama.cpp makes of the texts, and what it knows of the special tokens (None: none)."""

    ids: list[list[int]]
    """With special tokens recognised inside the text, and none added."""
    ids_added: list[list[int]]
    """The same with BOS and EOS added as the file says."""
    texts: list[str]
    """`ids` turned back into text, special tokens written out."""
    bos: int | None
    eos: int | None
    eot: int | None
    add_bos: bool
    add_eos: bool
    num_tokens: int
    ends: list[int]
    """Ids that end a generation."""
    control: list[int]


class RuntimeFailure(Exception):
    """llama.cpp refused the file or ended the process; the message holds the end of what it wrote."""


def ask(gguf: Path, texts: list[str]) -> Answers:
    """Load the vocabulary of `gguf` and encode `texts`."""
    request = json.dumps({"gguf": str(gguf), "texts": texts})
    done = subprocess.run([sys.executable, __file__], input=request, capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise RuntimeFailure(f"exit {done.returncode}: {done.stderr[-2000:]}")
    return Answers(**json.loads(done.stdout))


class _Opaque(ctypes.Structure):
    """A struct of the C API by value; larger than any of them, which does no harm on the stack."""

    _fields_ = (("bytes", ctypes.c_uint8 * 512),)


def _library() -> ctypes.CDLL:
    import xllamacpp

    folder = Path(xllamacpp.__file__).parent
    library = ctypes.CDLL(str(next(folder.glob("xllamacpp*.so"))))
    pointers = ("llama_model_load_from_file", "llama_model_get_vocab")
    for name in pointers:
        getattr(library, name).restype = ctypes.c_void_p
    library.llama_model_default_params.restype = _Opaque
    library.llama_model_load_from_file.argtypes = [ctypes.c_char_p, _Opaque]
    library.llama_model_get_vocab.argtypes = [ctypes.c_void_p]
    for name in ("bos", "eos", "eot", "n_tokens", "get_add_bos", "get_add_eos"):
        getattr(library, f"llama_vocab_{name}").argtypes = [ctypes.c_void_p]
    for name in ("get_add_bos", "get_add_eos", "is_eog", "is_control"):
        getattr(library, f"llama_vocab_{name}").restype = ctypes.c_bool
    library.llama_vocab_is_eog.argtypes = [ctypes.c_void_p, ctypes.c_int32]
    library.llama_vocab_is_control.argtypes = [ctypes.c_void_p, ctypes.c_int32]
    integer, flag = ctypes.c_int32, ctypes.c_bool
    tokens = ctypes.POINTER(integer)
    library.llama_tokenize.argtypes = [ctypes.c_void_p, ctypes.c_char_p, integer, tokens, integer, flag, flag]
    library.llama_detokenize.argtypes = [ctypes.c_void_p, tokens, integer, ctypes.c_char_p, integer, flag, flag]
    return library


def _model_params(library: ctypes.CDLL) -> _Opaque:
    params = library.llama_model_default_params()
    flags = list(params.bytes[_VOCAB_ONLY : _VOCAB_ONLY + 5])
    if flags != [0, 0, 1, 0, 0]:
        raise SystemExit(f"llama_model_params has changed: {flags} where vocab_only and its neighbours should be")
    params.bytes[_VOCAB_ONLY] = 1
    return params


def _encode(library: ctypes.CDLL, vocab: int, text: str, *, add_special: bool) -> list[int]:
    data = text.encode()
    room = (ctypes.c_int32 * (len(data) * 2 + 16))()
    num = library.llama_tokenize(vocab, data, len(data), room, len(room), add_special, True)
    if num < 0:
        raise SystemExit(f"llama_tokenize gave {num} for {text!r}")
    return list(room[:num])


def _decode(library: ctypes.CDLL, vocab: int, ids: list[int]) -> str:
    room = ctypes.create_string_buffer(64 + 256 * len(ids))
    num = library.llama_detokenize(vocab, (ctypes.c_int32 * len(ids))(*ids), len(ids), room, len(room), False, True)
    return room.raw[: max(num, 0)].decode(errors="replace")


def main() -> None:
    """Answer the request on stdin with one JSON object on stdout."""
    request = json.loads(sys.stdin.read())
    library = _library()
    library.llama_backend_init()
    model = library.llama_model_load_from_file(request["gguf"].encode(), _model_params(library))
    if not model:
        raise SystemExit("llama.cpp did not load the file")
    vocab = library.llama_model_get_vocab(model)
    num_tokens = library.llama_vocab_n_tokens(vocab)
    ids = [_encode(library, vocab, text, add_special=False) for text in request["texts"]]
    special = {name: getattr(library, f"llama_vocab_{name}")(vocab) for name in ("bos", "eos", "eot")}
    answers = Answers(
        ids=ids,
        ids_added=[_encode(library, vocab, text, add_special=True) for text in request["texts"]],
        texts=[_decode(library, vocab, row) for row in ids],
        **{name: None if number < 0 else number for name, number in special.items()},
        add_bos=library.llama_vocab_get_add_bos(vocab),
        add_eos=library.llama_vocab_get_add_eos(vocab),
        num_tokens=num_tokens,
        ends=[token for token in range(num_tokens) if library.llama_vocab_is_eog(vocab, token)],
        control=[token for token in range(num_tokens) if library.llama_vocab_is_control(vocab, token)],
    )
    sys.stdout.write(json.dumps(vars(answers)))


if __name__ == "__main__":
    main()
