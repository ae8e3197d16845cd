"""Training rows: the sources' tokens in their shares, cut, mixed and dealt out to the row lengths of the steps."""

import json
import math
import random
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from embedded_model.files import save_atomically, write_json
from embedded_model.text import Source
from embedded_model.tokenizer import CONTEXT_TOKENS, render

BATCH_TOKENS = 8192
CORPUS_TOKENS = 10_000_000
"""What the rows are cut from. Their order depends on nothing else: a shorter run sees the first part of the same."""
ROW_LENGTHS = (512, 512, 512, 1024, 512, 512, 512, 1024, 512, 2048)
"""Row length of step i is ROW_LENGTHS[i % 10]: mostly short for speed, some long so that every position is trained."""


def stream_source(
    tokenizer: PreTrainedTokenizerBase, source: Source, documents: list, num_tokens: int
) -> tuple[list[int], dict[str, object]]:
    """Shuffled passes over the documents until the source's share of tokens is reached: (ids, figures for the card)."""
    encoded = tokenizer([render(tokenizer, document) for document in documents], add_special_tokens=False)["input_ids"]
    shuffler = random.Random(f"order {source.name}")
    ids: list[int] = []
    while len(ids) < num_tokens:
        shuffler.shuffle(encoded)
        for document_ids in encoded:
            ids.extend(document_ids)
    figures = {
        "domain": source.domain,
        "documents": len(encoded),
        "tokens": sum(map(len, encoded)),
        "share": source.share,
    }
    return ids[:num_tokens], figures


def pack_rows(streams: list[list[int]]) -> dict[int, torch.Tensor]:
    """Cuts every stream into blocks, mixes them, deals them out to the row lengths: length -> rows of length + 1."""
    blocks = []
    for ids in streams:
        blocks += [
            ids[start : start + CONTEXT_TOKENS + 1] for start in range(0, len(ids) - CONTEXT_TOKENS, CONTEXT_TOKENS)
        ]
    random.Random("blocks").shuffle(blocks)
    rows: dict[int, torch.Tensor] = {}
    start = 0
    for length in sorted(set(ROW_LENGTHS)):
        stop = start + math.ceil(len(blocks) * ROW_LENGTHS.count(length) / len(ROW_LENGTHS))
        cuts = [block[at : at + length + 1] for block in blocks[start:stop] for at in range(0, CONTEXT_TOKENS, length)]
        random.Random(f"rows {length}").shuffle(cuts)
        rows[length], start = torch.tensor(cuts, dtype=torch.int16), stop
    return rows


def prepare_rows(
    work: Path, tokenizer: PreTrainedTokenizerBase, sources: list[Source], parts: dict[str, tuple[list, list]]
) -> tuple[dict[int, torch.Tensor], dict[str, object]]:
    """Rows and figures of every source, made once and kept in the work folder."""
    rows_path, figures_path = work / "rows.pt", work / "sources.json"
    if not rows_path.exists():
        streams = {
            s.name: stream_source(tokenizer, s, parts[s.name][0], round(CORPUS_TOKENS * s.share)) for s in sources
        }
        write_json(figures_path, {name: figures for name, (_, figures) in streams.items()})
        save_atomically(rows_path, pack_rows([ids for ids, _ in streams.values()]))
    return torch.load(rows_path, weights_only=True), json.loads(figures_path.read_text(encoding="utf-8"))


def batch_of_step(rows: dict[int, torch.Tensor], step: int) -> torch.Tensor:
    length = ROW_LENGTHS[step % len(ROW_LENGTHS)]
    rounds, position = divmod(step, len(ROW_LENGTHS))
    served = rounds * ROW_LENGTHS.count(length) + ROW_LENGTHS[:position].count(length)
    size = BATCH_TOKENS // length
    return rows[length].roll(-served * size, 0)[:size].long()
