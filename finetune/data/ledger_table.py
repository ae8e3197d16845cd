"""Writes the ledger as a short table for the terminal. Called by check.py."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from finetune.data.privacy import NOT_FOUND


def ledger_lines(ledger: Mapping[str, Any]) -> list[str]:
    """Write the content of `data/ledger.json` as lines: what was read, left out and why, and what carries loss."""
    return [*_sources(ledger), *_rows(ledger), *_leaks(ledger), *_personal(ledger), *_tokens(ledger)]


def _sources(ledger: Mapping[str, Any]) -> Iterator[str]:
    for label, entry in ledger["sources"].items():
        name = Path(entry["path"]).name if "/" in entry["path"] else entry["path"]
        used = f", {entry['used']:,} used" if entry.get("used", entry["rows"]) != entry["rows"] else ""
        yield f"{name}: {entry['rows']:,} rows for {label}{used}, format {entry['format']}"
        if entry.get("rows_with_alternatives"):
            yield f"  {entry['rows_with_alternatives']:,} rows give several right answers; the first of each is used"


def _rows(ledger: Mapping[str, Any]) -> Iterator[str]:
    rejected = sum(ledger["rejected"].values())
    yield f"rows      {ledger['rows_in']:>9,} in  {ledger['rows_used']:>9,} used  {rejected:>9,} rejected"
    for reason, count in ledger["rejected"].items():
        if count:
            first = ledger["examples"][reason][0]
            yield f"  {reason:<16} {count:>9,}  first: {first['source']}: {first['detail']}"
    if ledger["rows_not_drawn"]:
        yield f"  {ledger['rows_not_drawn']:,} more rows are left out by data.max_rows or the weights of data.sources"
    kept = sum(ledger["duplicates"].values()) - sum(
        ledger["rejected"][f"{kind}_duplicate"] for kind in ("exact", "near")
    )
    if kept:
        yield f"  {kept:,} rows nearly repeat others and are kept (data.near_duplicates)"
    if ledger["related_rows"]:
        yield f"  {ledger['related_rows']:,} rows share most of their text with others; no split parts them"
    yield "items     " + "  ".join(f"{count:>9,} {name}" for name, count in ledger["splits"].items())


def _leaks(ledger: Mapping[str, Any]) -> Iterator[str]:
    for name, entry in ledger["contamination"].items():
        if entry["contaminated"]:
            shown = "test items" if name == "test" else f"items of {Path(name).name}"
            first = entry["examples"][0]
            yield (
                f"overlap   {entry['contaminated']:>9,} of {entry['items']:,} {shown} share long runs of words with a "
                f"training row (longest {first['words']:,} words: {first['item']} and {first['source']})"
            )
        if entry["items_not_compared"]:
            yield f"  of {name} an even part was compared; {entry['items_not_compared']:,} items were not"


def _personal(ledger: Mapping[str, Any]) -> Iterator[str]:
    if ledger["pii_policy"] == "off":
        return
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in ledger["pii"].items() if count) or "none recognised"
    verb = "replaced" if ledger["pii_policy"] == "redact" else "found"
    yield f"personal  {ledger['pii_rows']:>9,} rows with personal data {verb}: {kinds}"
    yield f"  {NOT_FOUND}"


def _tokens(ledger: Mapping[str, Any]) -> Iterator[str]:
    tokens = ledger["tokens"]
    if not tokens["total"]:
        return
    yield f"tokens    {tokens['total']:>9,} total  {tokens['supervised']:>9,} supervised"
    share = ledger["end_token_supervised_share"]
    if share is not None and share < 1:
        yield f"  the end token carries loss in {100 * share:.1f} % of the rows; else a model does not learn to stop"
    if ledger["shortened_prompts"]:
        removed = ledger["prompt_tokens_removed"]
        yield f"  {ledger['shortened_prompts']:,} prompts shortened by {removed:,} tokens in all"
    if ledger["control_token_rows"]:
        yield (
            f"  {ledger['control_token_rows']:,} chats write control tokens (<|im_end|> and the like), which are "
            "taken as text (data.control_tokens)"
        )
    if ledger["continued_answers"]:
        yield f"  {ledger['continued_answers']:,} long answers go on in further examples that repeat the prompt"
    if ledger["truncated_rows"] or tokens["truncated"]:
        lost = f"{100 * ledger['answer_tokens_lost_share']:.1f} %"
        yield f"  {ledger['truncated_rows']:,} answers cut, {tokens['truncated']:,} answer tokens ({lost}) lost"
    lengths = ledger["lengths"]
    if lengths:
        most = max(lengths.values())
        yield "  lengths " + "  ".join(f"≤{bin}: {count:,}{_bar(count, most)}" for bin, count in lengths.items())


def _bar(count: int, most: int) -> str:
    """A block whose height shows the count beside the largest."""
    return " " + "▁▂▃▄▅▆▇█"[min(7, 8 * count // (most + 1))]
