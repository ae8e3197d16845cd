"""Answers to programming tasks as programs for the sandbox, and pass@k from how many of them pass. For `evaluate`.

Generated code is never parsed or run in this process: here it is text.
"""

import re

from finetune.evaluation.sandbox.run import Program
from finetune.records import Conversation

_FENCED = re.compile(r"^[ \t]*(?:```|~~~)[^\n]*\n(.*?)(?:^[ \t]*(?:```|~~~)[ \t]*$|\Z)", re.MULTILINE | re.DOTALL)
_IMPORT = re.compile(
    r"^(?:from\s+[\w.]+\s+import\s+.+|import\s+[\w.]+(?:\s+as\s+\w+)?(?:\s*,\s*[\w.]+)*)$", re.MULTILINE
)
_FUNCTION = re.compile(r"^(?:async\s+def|def|class)\s+(\w+)", re.MULTILINE)


def pass_at_k(num_samples: int, num_passed: int, k: int) -> float:
    """Estimate the chance that at least one of k answers passes, from n answers of which c pass; without bias.

    1 - C(n-c, k) / C(n, k), as a product of which no factor overflows (Chen et al. 2021, arXiv 2107.03374, figure 3).

    Raises:
        ValueError: there are fewer than k answers, or no such number of them can have passed.
    """
    if not 0 <= num_passed <= num_samples or not 1 <= k <= num_samples:
        raise ValueError(f"pass@{k} of {num_samples} answers, {num_passed} of them right, does not exist")
    if num_samples - num_passed < k:
        return 1.0
    none_passes = 1.0
    for size in range(num_samples - num_passed + 1, num_samples + 1):
        none_passes *= 1 - k / size
    return 1 - none_passes


def extract_code(answer: str, entry_point: str | None = None) -> str:
    """Take the code out of an answer: the fenced block that defines `entry_point`, else the first, else the whole.

    A fence that is never closed, as in an answer that was cut off, goes to the end.
    """
    blocks = [found.group(1) for found in _FENCED.finditer(answer)]
    if not blocks:
        return answer
    return next((block for block in blocks if entry_point in _FUNCTION.findall(block)), blocks[0])


def program_of(row: Conversation, answer: str) -> Program:
    """Put an answer and the row's tests together.

    Where the question gives the beginning of the function (HumanEval), an answer may go on from there, or be the whole
    function again without the question's imports; the sandbox takes the first reading that is Python and has the
    function.
    """
    code = extract_code(answer, row.entry_point)
    question = next((turn.content for turn in reversed(row.prompt) if turn.role == "user"), "")
    question = extract_code(question, row.entry_point)
    readings: list[str] = [code]
    if row.entry_point is not None and row.entry_point in _FUNCTION.findall(question):
        imports = "\n".join(_IMPORT.findall(question))
        body = code if code != answer else answer.rstrip()
        indented = "\n".join("    " + line for line in body.splitlines())
        begun = question.rstrip()
        readings = [
            f"{imports}\n{code}",
            *(f"{begun}\n{text}" for text in (body, f"    {body}", f"\t{body}", indented)),
        ]
    return Program(code=readings[0], readings=tuple(readings[1:]), tests=row.tests, entry_point=row.entry_point)
