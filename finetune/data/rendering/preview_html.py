"""Shows an example on a page: which tokens carry loss, where each begins, what the template writes. For the report."""

import itertools
from collections.abc import Sequence
from html import escape
from typing import Any

from finetune.data.rendering.pieces import CONTROL, Piece, pieces_of
from finetune.data.rendering.preview import learned_share
from finetune.records import Conversation, Example

PREVIEW_CSS = """
.ft-example { --ft-ink: #1c2128; --ft-faint: #667080; --ft-page: #ffffff; --ft-edge: #d5dae1; --ft-learned: #c9efd2;
  --ft-learned-edge: #2f8f4e; --ft-learned-ink: #0b3d1c; --ft-chip: #e9ecf1; --ft-odd: #b3261e; color-scheme: light;
  color: var(--ft-ink); background: var(--ft-page); border: 1px solid var(--ft-edge); border-radius: 6px;
  margin: 0 0 1rem; font-size: 0.9rem; }
@media (prefers-color-scheme: dark) { .ft-example { --ft-ink: #e3e8ee; --ft-faint: #98a3b1; --ft-page: #15191e;
  --ft-edge: #343b45; --ft-learned: #123d22; --ft-learned-edge: #4cc074; --ft-learned-ink: #d3f7df; --ft-chip: #2a313a;
  --ft-odd: #ff8a80; color-scheme: dark; } }
.ft-example figcaption { padding: 0.45rem 0.8rem; border-bottom: 1px solid var(--ft-edge); color: var(--ft-faint);
  display: flex; flex-wrap: wrap; gap: 0.2rem 1.2rem; overflow-wrap: anywhere; }
.ft-example figcaption b { color: var(--ft-ink); }
.ft-example pre { margin: 0; padding: 0.7rem 0.8rem; white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.75;
  font-family: ui-monospace, "SFMono-Regular", Menlo, Consolas, "DejaVu Sans Mono", monospace; font-size: 0.85rem; }
.ft-example .t { border-left: 1px solid var(--ft-edge); }
.ft-example .l { background: var(--ft-learned); color: var(--ft-learned-ink); padding: 0.12em 0;
  border-left-color: var(--ft-learned-edge); border-bottom: 2px solid var(--ft-learned-edge); }
.ft-example .m { color: var(--ft-faint); text-decoration: underline dotted; text-underline-offset: 0.25em; }
.ft-example .s { background: var(--ft-chip); color: var(--ft-faint); border: 1px solid var(--ft-edge);
  border-radius: 0.6em; padding: 0.05em 0.4em; margin: 0 0.1em; font-size: 0.92em; }
.ft-example .s.l { background: var(--ft-learned); color: var(--ft-learned-ink); border-color: var(--ft-learned-edge); }
.ft-example .t:hover { outline: 2px solid var(--ft-ink); outline-offset: -1px; }
.ft-example .n { color: var(--ft-faint); opacity: 0.65; font-style: normal; }
.ft-example .c { color: var(--ft-odd); border: 1px solid var(--ft-odd); border-radius: 3px; font-size: 0.8em;
  padding: 0 0.2em; font-style: normal; }
.ft-example .g { display: block; color: var(--ft-faint); text-align: center; padding: 0.4rem 0; }
.ft-example mark { background: none; color: inherit; }
"""
"""What a page needs once for the fragments of `preview_html`; by class names, for light and dark."""

_MOST_TOKENS = 1_200


def preview_html(
    example: Example, tokenizer: Any, conversation: Conversation, *, most_tokens: int = _MOST_TOKENS
) -> str:
    """Write an example as a self-contained fragment of HTML, without script; PREVIEW_CSS must stand in the page.

    Each token is an element (pointing at it shows its number and id): what carries loss is green, special tokens are
    chips, what the template writes is underlined, control characters are named. Of a longer example than `most_tokens`
    the middle is left out.
    """
    pieces = pieces_of(example, tokenizer, conversation)
    half = most_tokens // 2
    head, tail = (pieces, []) if len(pieces) <= most_tokens else (pieces[:half], pieces[-half:])
    gap = f'<span class="g">… {len(pieces) - 2 * half:,} tokens left out here …</span>' if tail else ""
    return (
        '<figure class="ft-example"><figcaption>'
        f"<b>{_text(example.item_id)}</b> <span>{_text(conversation.source)}</span> "
        f"<span>{learned_share(example)}</span></figcaption>"
        f"<pre>{_body(head)}{gap}{_body(tail)}</pre></figure>"
    )


def _body(pieces: Sequence[Piece]) -> str:
    """Runs of learned tokens stand in <mark>, so that they are told apart without colour too."""
    written: list[str] = []
    for is_learned, run in itertools.groupby(pieces, lambda piece: piece.learned):
        body = "".join(map(_token, run))
        written.append(f"<mark>{body}</mark>" if is_learned else body)
    return "".join(written)


def _token(piece: Piece) -> str:
    kind = {"special": " s", "template": " m", "content": ""}[piece.kind]
    learned = " l" if piece.learned else ""
    numbers = ", ".join(map(str, piece.ids))
    note = f"token {piece.position}: id {numbers}{', learned' if piece.learned else ''}"
    return f'<span class="t{kind}{learned}" title="{note}">{_text(piece.text, lines=True)}</span>'


def _text(text: str, *, lines: bool = False) -> str:
    """Escape a text of the data: its markup is shown, and so are characters that would be obeyed."""
    shown = CONTROL.sub(lambda match: f'<i class="c">U+{ord(match.group()):04X}</i>', escape(text, quote=True))
    return shown.replace("\n", '<i class="n">↵</i>\n') if lines else shown.replace("\n", " ")
