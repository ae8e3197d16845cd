"""What a chat template writes around answers, learned from a small chat. Used by render.py.

An answer is what the model itself writes: it begins where the generation prompt has ended and goes up to the end of the
turn. Marked and found answers are both trimmed to that, so that they are the same whichever way they were made.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from finetune.data.rendering.spans import Span, common_prefix
from finetune.records import Message

_QUESTIONS = ("the question number one", "the question number two")
_ANSWERS = ("An answer number one", "An answer number two")
_THOUGHTS = "Some thoughts about it"
_SYSTEM = Message(role="system", content="Speak of the system")
PROBE = tuple(
    Message(role=role, content=content)
    for question, answer in zip(_QUESTIONS, _ANSWERS, strict=True)
    for role, content in (("user", question), ("assistant", answer))
)
_CALL = '[{"type": "function", "function": {"name": "probe", "arguments": {"number": 1}}}]'
_TOOL_CHAT = (
    PROBE[0],
    Message(role="assistant", content="", tool_calls=_CALL),
    Message(role="tool", content="result of the tool"),
    PROBE[1],
)


@dataclass(frozen=True, slots=True)
class TurnMarks:
    """The texts around an answer, longest first.

    `openings` are the generation prompt, such as `<|im_start|>assistant\n<think>\n`, and what of it the template writes
    before answers of several kinds. `inside` are the ends of those which a generation marker takes in. `endings` are
    `<|im_end|>` and the like.
    """

    openings: tuple[str, ...] = ()
    inside: tuple[str, ...] = ()
    endings: tuple[str, ...] = ()
    specials: tuple[str, ...] = ()
    """The tokenizer's special and added tokens."""
    openers: frozenset[str] = frozenset()
    """Those of them that begin a turn."""
    leads: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """What stands directly before a content, such as `<|im_start|>user\n`, by role."""
    before_thoughts: str = ""
    """What stands between a question and the thoughts before its answer, such as `<|im_end|>\n…\n<think>\n`."""
    behind_thoughts: str = ""
    """What stands between the thoughts and the answer, such as `\n</think>\n\n`."""

    def start(self, text: str, marked: int) -> int:
        """Where an answer begins that a generation marker lets begin at `marked`."""
        return next((marked + len(part) for part in self.inside if text.startswith(part, marked)), marked)

    def find_start(self, text: str, cursor: int) -> int | None:
        """Where the next answer behind `cursor` begins: behind its opening."""
        if not self.openings:
            return None
        place = text.find(self.openings[-1], cursor)
        return self.skip_opening(text, place) if place >= 0 else None

    def skip_opening(self, text: str, place: int) -> int:
        """Where the opening that stands at `place` ends; `place` itself if none stands there."""
        return next((place + len(opening) for opening in self.openings if text.startswith(opening, place)), place)

    def end(self, text: str, end: int, content_end: int) -> int:
        """Where an answer ends that was found to reach to `end`: behind its end-of-turn token, without white space.

        `content_end` is where its content ends, whose own white space and special tokens count as text.
        """
        end = max(len(text[content_end:end].rstrip()) + content_end, content_end) if end > content_end else content_end
        for ending in self.endings:
            if text.startswith(ending, end):
                return end + len(ending)
        if end > content_end and any(text.endswith(ending, content_end, end) for ending in self.endings):
            return end
        following = next((token for token in self.specials if text.startswith(token, end)), "")
        if end > content_end and any(text.endswith(token, content_end, end) for token in self.specials):
            return end if following in self.openers else end + len(following)
        return end + len(following)


Render = Callable[[Sequence[Message], bool], tuple[str, list[Span] | None] | None]
"""Writes messages, with the generation prompt where asked; None where the template refuses."""


def learn_turn_marks(render: Render, specials: tuple[str, ...]) -> TurnMarks:
    """Try the template out; where it refuses the small chat, only the special tokens are known."""
    asked, prompt = render(PROBE[:1], False), render(PROBE[:1], True)
    short, whole = render(PROBE[:2], False), render(PROBE, False)
    ruled = render((_SYSTEM, PROBE[0]), False)
    if asked is None or prompt is None or short is None or whole is None:
        return TurnMarks(specials=specials)
    generation = _behind(prompt[0], _QUESTIONS[0])
    closing = common_prefix(_behind(asked[0], _QUESTIONS[0]), generation)
    headers = [
        _between(text, question, answer)
        for text in (short[0], whole[0])
        for question, answer in zip(_QUESTIONS, _ANSWERS, strict=True)
        if answer in text
    ]
    shared = {common_prefix(generation, header) for header in headers} - {generation}
    shared |= {generation} if "<think>" in generation else set()
    openings = {generation, *(opening.partition("<think>")[0] for opening in shared)}
    openings = {opening[len(closing) :] for opening in openings if len(opening) > len(closing)}
    endings = _endings(short[0], whole[0], specials)
    before_thoughts, behind_thoughts = _around_thoughts(render)
    turns = "".join(openings) + _between(whole[0], _ANSWERS[0], _QUESTIONS[1])
    return TurnMarks(
        openings=_by_length(openings),
        inside=_by_length(_inside(openings, short, len(closing)) | _inside_after_tool(render)),
        endings=_by_length(endings),
        specials=specials,
        openers=frozenset(token for token in specials if token in turns) - endings,
        leads=_leads([text[0] for text in (whole, short, ruled) if text], specials),
        before_thoughts=before_thoughts,
        behind_thoughts=behind_thoughts,
    )


def _around_thoughts(render: Render) -> tuple[str, str]:
    """What the template writes on both sides of thoughts; empty where it leaves thoughts out."""
    thinking = replace(PROBE[1], reasoning_content=_THOUGHTS)
    text, _ = render((PROBE[0], thinking), False) or ("", None)
    if _THOUGHTS not in text:
        return "", ""
    return _between(text, _QUESTIONS[0], _THOUGHTS), _between(text, _THOUGHTS, _ANSWERS[0])


def _leads(texts: Sequence[str], specials: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """What stands before the contents, from the last special token on that does not stand there alone."""
    leads: dict[str, set[str]] = {}
    for message in (_SYSTEM, *PROBE):
        for text in texts:
            before, found, _ = text.partition(message.content)
            starts = [before.rfind(token) for token in specials]
            behind = [before.rfind(other.content) + len(other.content) for other in PROBE if other.content in before]
            if found:
                leads.setdefault(message.role, set()).add(before[max([*starts, *behind, 0]) :])
    return {role: _by_length(texts) for role, texts in leads.items()}


def _inside(openings: set[str], marked: tuple[str, list[Span] | None], closing: int) -> set[str]:
    text, spans = marked
    if not spans or _QUESTIONS[0] not in text:
        return set()
    offset = spans[0][0] - (text.index(_QUESTIONS[0]) + len(_QUESTIONS[0]) + closing)
    return {opening[offset:] for opening in openings if 0 <= offset < len(opening)}


def _inside_after_tool(render: Render) -> set[str]:
    """What the template writes behind a tool's result, before an answer, and marks: `<｜tool▁outputs▁end｜>`."""
    prompt, marked = render(_TOOL_CHAT[:3], True), render(_TOOL_CHAT, False)
    text, spans = marked or ("", None)
    if prompt is None or not spans:
        return set()
    place = text.find(_TOOL_CHAT[2].content) + len(_TOOL_CHAT[2].content)
    asked = _behind(prompt[0], _TOOL_CHAT[2].content)
    given = common_prefix(asked, text[place:])
    given = given if given == asked else given.partition("<think>")[0]
    start = next((start for start, _ in spans if start >= place), None)
    return set() if start is None else {given[start - place :]}


def _endings(short: str, whole: str, specials: Sequence[str]) -> set[str]:
    """What stands behind the last answer, and what of it stands behind an earlier one, up to a special token."""
    last = _behind(short, _ANSWERS[0])
    shared = common_prefix(last, _behind(whole, _ANSWERS[0]))
    if shared != last:
        shared = shared[: max((shared.rfind(token) + len(token) for token in specials if token in shared), default=0)]
    return {last.rstrip(), shared.rstrip()} - {""}


def _behind(text: str, mark: str) -> str:
    return text.partition(mark)[2]


def _between(text: str, left: str, right: str) -> str:
    return _behind(text, left).partition(right)[0]


def _by_length(texts: set[str]) -> tuple[str, ...]:
    return tuple(sorted((text for text in texts if text), key=lambda text: (-len(text), text)))


def merge_touching(spans: Sequence[Span]) -> list[Span]:
    """Join spans that touch and drop empty ones."""
    kept = [span for span in spans if span[1] > span[0]]
    starts = [span[0] for number, span in enumerate(kept) if number == 0 or kept[number - 1][1] < span[0]]
    ends = [left[1] for left, right in pairwise(kept) if left[1] < right[0]] + [span[1] for span in kept[-1:]]
    return list(zip(starts, ends, strict=True))
