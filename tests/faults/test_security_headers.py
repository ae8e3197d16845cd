"""Bar S5: headers of safetensors and GGUF files are checked before a native parser sees the file.

10,000 seeded mutations: each file is either refused by an error of ours, or it is one that the parser below takes too.
"""

import json
import random
import re
import struct
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from finetune.errors import ExportError
from finetune.headers import HeaderProblem
from finetune.headers.gguf import BLOCKS, check_gguf_header
from finetune.headers.safetensors import load_file, read_safetensors_header

ROOT = Path(__file__).resolve().parents[2]
MOST_BYTES = 200_000_000
Header = dict[str, Any]


def safetensors_of(header: Header | bytes, payload: int = 96) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(payload)


def plain_header() -> Header:
    return {
        "__metadata__": {"format": "pt"},
        "a.weight": {"dtype": "F32", "shape": [2, 4], "data_offsets": [0, 32]},
        "b.weight": {"dtype": "BF16", "shape": [16], "data_offsets": [32, 64]},
        "c": {"dtype": "I64", "shape": [2, 2], "data_offsets": [64, 96]},
    }


def changed_header(dice: random.Random) -> bytes:
    """A header that says something else than the file holds, or nothing sensible."""
    header = plain_header()
    name = dice.choice(["a.weight", "b.weight", "c"])
    entry = header[name]
    number = dice.choice([-1, 0, 1, 31, 33, 2**31, 2**32 + 1, 2**63, 2**64 - 1, 10**30, 1.5, "4", None, True, [], {}])
    changes: list[Callable[[], object]] = [
        lambda: entry.update(data_offsets=[number, entry["data_offsets"][1]]),
        lambda: entry.update(data_offsets=[entry["data_offsets"][0], number]),
        lambda: entry.update(data_offsets=[0, 32]),
        lambda: entry.update(data_offsets=entry["data_offsets"][::-1]),
        lambda: entry.update(data_offsets=number),
        lambda: entry["shape"].append(number),
        lambda: entry.update(shape=number),
        lambda: entry.update(shape=[2**32, 2**32, 0]),
        lambda: entry.update(shape=[1] * 1000),
        lambda: entry.update(dtype=dice.choice(["F33", "", None, 1, "f32", "BOOL", "F4", "os.system"])),
        lambda: entry.pop(dice.choice(list(entry))),
        lambda: entry.update(extra=1),
        lambda: header.update({name: dice.choice([None, [], "x", 1])}),
        lambda: header.update(__metadata__=dice.choice([None, [], {"a": 1}, {"a": {}}, "x"])),
        lambda: header.pop(name),
        lambda: header.update({"d": dict(entry)}),
    ]
    dice.choice(changes)()
    text = json.dumps(header)
    if dice.random() < 0.1:
        text = text.replace('"c"', '"a.weight"')
    if dice.random() < 0.05:
        text = text.replace('"a.weight"', '"' + "[" * 10_000 + '"').replace("32]", "[" * 5000 + "32" + "]" * 5000 + "]")
    return text.encode()


def changed_bytes(content: bytes, dice: random.Random, reach: int) -> bytes:
    """Some bytes of the first `reach` changed, taken out, put in or cut off."""
    data = bytearray(content)
    for _ in range(dice.randint(1, 4)):
        place = dice.randrange(min(reach, len(data)) or 1)
        match dice.randrange(5):
            case 0:
                data[place : place + 1] = bytes([dice.randrange(256)])
            case 1:
                data[place : place + 8] = struct.pack("<Q", dice.choice([0, 1, 2**16, 2**31, 2**40, 2**63, 2**64 - 1]))
            case 2:
                del data[place : place + dice.randint(1, 16)]
            case 3:
                data[place:place] = dice.randbytes(dice.randint(1, 16))
            case _:
                data[place : place + 4] = struct.pack("<I", dice.choice([0, 1, 7, 8, 9, 13, 255, 2**31, 2**32 - 1]))
        if not data:
            break
    return bytes(data[: dice.randrange(len(data) + 1)] if dice.random() < 0.1 else data)


def safetensors_mutants(count: int) -> Iterator[bytes]:
    dice = random.Random(5)
    whole = safetensors_of(plain_header())
    for number in range(count):
        if number % 2:
            yield safetensors_of(changed_header(dice))
        else:
            yield changed_bytes(whole, dice, len(whole) - 96 if dice.random() < 0.9 else len(whole))


@pytest.fixture(scope="module")
def gguf_bytes(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, int]:
    """A small GGUF file, and the length of its header."""
    gguf = pytest.importorskip("gguf")
    import numpy as np

    path = tmp_path_factory.mktemp("gguf") / "a.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_bool("tokenizer.ggml.add_bos_token", True)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(["a", "b", "<|end|>"])
    writer.add_token_types([1, 1, 3])
    writer.add_token_scores([0.0, 1.0, 2.0])
    for name, width in (("token_embd.weight", 32), ("blk.0.attn_q.weight", 64), ("output_norm.weight", 32)):
        writer.add_tensor(name, np.ones((2, width), dtype=np.float32))
    writer.add_tensor("q", np.zeros((4, 34), dtype=np.uint8), raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    data = path.read_bytes()
    return data, data.index(b"q", data.index(b"output_norm.weight")) + 40


def safely(check: Callable[[Path], object], path: Path) -> bool:
    """Whether the check takes the file; whatever it raises is ours."""
    try:
        check(path)
    except HeaderProblem as problem:
        assert len(str(problem)) < 500
        return False
    return True


@pytest.mark.bar("S5")
@pytest.mark.slow
def test_5000_changed_safetensors_headers(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    taken = 0
    for content in safetensors_mutants(5000):
        path.write_bytes(content)
        if safely(read_safetensors_header, path):
            taken += 1
            load_file(path)
    assert taken < 1000


@pytest.mark.bar("S5")
@pytest.mark.slow
def test_5000_changed_gguf_headers(tmp_path: Path, gguf_bytes: tuple[bytes, int]) -> None:
    import gguf

    content, reach = gguf_bytes
    dice = random.Random(7)
    path = tmp_path / "a.gguf"
    taken = 0
    for _ in range(5000):
        path.write_bytes(changed_bytes(content, dice, reach))
        if safely(check_gguf_header, path):
            taken += 1
            if taken % 5 == 0:
                gguf.GGUFReader(path)
    assert taken < 2500


@pytest.mark.bar("S5")
def test_whole_files_are_taken(tmp_path: Path, gguf_bytes: tuple[bytes, int]) -> None:
    (tmp_path / "a.safetensors").write_bytes(safetensors_of(plain_header()))
    assert [entry.name for entry in read_safetensors_header(tmp_path / "a.safetensors")] == [
        "a.weight",
        "b.weight",
        "c",
    ]
    (tmp_path / "a.gguf").write_bytes(gguf_bytes[0])
    assert check_gguf_header(tmp_path / "a.gguf") == 4
    assert len(read_safetensors_header(ROOT / "models/embedded/model.safetensors")) > 50


@pytest.mark.bar("S5")
def test_the_sizes_of_types_are_those_of_the_packages(gguf_bytes: tuple[bytes, int]) -> None:
    import gguf

    known = {int(kind): sizes for kind, sizes in gguf.GGML_QUANT_SIZES.items()}
    assert all(known[kind] == sizes for kind, sizes in BLOCKS.items() if kind in known)


GREEDY = {
    "lists": b'{"a":' + b"[]," * 10_000_000,
    "numbers": b'{"a":[' + b"1," * 15_000_000,
    "depth": b'{"a":' * 6_000_000,
    "length": b"{" + b" " * 40_000_000,
    "digits": b'{"a":{"dtype":"F32","shape":[' + b"9" * 1_000_000 + b'],"data_offsets":[0,1]}}',
}


@pytest.mark.bar("S5")
@pytest.mark.slow
@pytest.mark.parametrize("name", GREEDY)
def test_a_header_made_to_fill_the_memory_does_not(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(safetensors_of(GREEDY[name], 0))
    tracemalloc.start()
    started = time.process_time()
    with pytest.raises(HeaderProblem):
        read_safetensors_header(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MOST_BYTES and time.process_time() - started < 10


@pytest.mark.bar("S5")
@pytest.mark.parametrize(
    ("start", "claim"), [(b"<Q", 2**62), (b"<Q", 2**20), (b"<Q", 2**64 - 1)], ids=["huge", "a million", "most"]
)
def test_a_gguf_file_that_claims_too_much_costs_nothing(start: bytes, claim: int, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    for content in (
        struct.pack("<4sIQQ", b"GGUF", 3, claim, 0),
        struct.pack("<4sIQQ", b"GGUF", 3, 0, claim),
        struct.pack("<4sIQQQ1sI", b"GGUF", 3, 0, 1, 1, b"a", 8) + struct.pack("<Q", claim),
        struct.pack("<4sIQQQ1sI", b"GGUF", 3, 0, 1, 1, b"a", 9) + struct.pack("<IQ", 8, claim),
        struct.pack("<4sIQQQ1sI", b"GGUF", 3, 0, 1, 1, b"a", 9) + struct.pack("<IQ", 9, 2) * 50,
        struct.pack("<4sIQQQ", b"GGUF", 3, 0, 1, claim),
    ):
        path.write_bytes(content)
        assert not safely(check_gguf_header, path)


@pytest.mark.bar("S5")
def test_no_file_is_given_to_a_parser_unchecked() -> None:
    """Every load in the package goes through the check; `from_pretrained` of weights follows the folder's check."""
    native = re.compile(
        r"from safetensors\S* import (?!save_file$)|safe_open|GGUFReader\(|= AutoModel\w*\.from_pretrained"
    )
    found: dict[str, list[str]] = {}
    for path in (ROOT / "finetune").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        hits = [line.strip() for line in text.splitlines() if native.search(line)]
        if hits:
            found[path.relative_to(ROOT).as_posix()] = hits
            assert "check_safetensors_folder(" in text or "check_gguf_header(" in text or "headers" in path.parts, path
    assert set(found) == {
        "finetune/export/gguf/readback.py",
        "finetune/evaluation/model_outputs.py",
        "finetune/headers/safetensors.py",
        "finetune/model/load.py",
    }


@pytest.mark.bar("S5")
def test_llama_cpp_is_not_even_started_on_a_broken_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from finetune.model import llama_cpp

    def started(*_: object, **__: object) -> None:
        raise AssertionError("started")

    monkeypatch.setattr(llama_cpp.subprocess, "Popen", started)
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ExportError, match=r"a\.gguf: is of GGUF version 0"):
        llama_cpp.LlamaCpp(tmp_path / "a.gguf")
