"""Bounds what a chat template, which anybody may have written, can cost: time, memory, its own size.

transformers runs templates in Jinja's sandbox, which keeps them from Python's inside but not from looping for ever.
Used by template.py and by the comparisons of exports.
"""

import contextlib
import functools
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from finetune.errors import ModelError

SECONDS = 5.0
"""Processor time for one chat; real templates take a thousandth of a second."""
AGAIN_SECONDS = 0.1
"""Then it is interrupted again, and again: what is raised while Python collects garbage is lost."""
HEADROOM_BYTES = 1_500_000_000
"""Memory that a rendering may add to what the process has."""
MOST_CHARACTERS = 1_000_000
"""Of a template's text; the longest of well-known models have 20,000."""

_WAY_OUT = "Use another template: model.chat_template=plain, chatml or a .jinja file that you trust"


class TemplateBomb(ModelError):
    """The template takes too long, or too much memory; no row could be written by it."""


class _TimeIsUp(BaseException):
    """Raised inside the template; nothing there catches it."""


@contextlib.contextmanager
def bounded() -> Iterator[None]:
    """Run a template inside the block.

    Raises:
        TemplateBomb: it takes more than `SECONDS` of processor time or `HEADROOM_BYTES` more memory.
    """
    try:
        with _memory_limit(), _time_limit():
            yield
    except _TimeIsUp:
        raise TemplateBomb(f"the chat template takes more than {SECONDS:g} s for one chat. {_WAY_OUT}") from None
    except MemoryError:
        raise TemplateBomb(f"the chat template takes more than {HEADROOM_BYTES // 10**6} MB. {_WAY_OUT}") from None


@contextlib.contextmanager
def _time_limit() -> Iterator[None]:
    """Interrupt the main thread after `SECONDS` of processor time; other threads get no signals and are not bounded."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGVTALRM, _interrupt)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS, AGAIN_SECONDS)
    try:
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)  # one more interruption may fall in here
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise _TimeIsUp


@contextlib.contextmanager
def _memory_limit() -> Iterator[None]:
    """Lower the limit of the address space to what is in use and some headroom, where the system has such a limit."""
    try:
        import resource

        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123
            used = int(file.read().split()[0]) * _page_bytes()
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    except (ImportError, OSError, ValueError):
        yield
        return
    wanted = used + HEADROOM_BYTES
    if soft != resource.RLIM_INFINITY and soft <= wanted:
        yield
        return
    resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@functools.cache
def _page_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE")


@functools.lru_cache(maxsize=16)
def check_source(source: str) -> None:
    """Refuse a template whose text alone could stop the program: Python raises to a power in one uninterrupted step.

    Raises:
        ModelError: it is too long, nested too deep, or has powers.
    """
    if len(source) > MOST_CHARACTERS:
        raise ModelError(f"the chat template has {len(source):,} characters; at most {MOST_CHARACTERS:,} are read")
    from jinja2 import Environment, nodes
    from jinja2.exceptions import TemplateSyntaxError
    from jinja2.ext import Extension, loopcontrols

    class Generation(Extension):
        """Reads over {% generation %}, which transformers adds to the language."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(["name:endgeneration"], drop_needle=True)

    try:
        tree = Environment(extensions=[Generation, loopcontrols], autoescape=False).parse(source)
    except TemplateSyntaxError:
        if "**" not in source:
            return  # rendering says what is wrong with it
        raise ModelError(f"the chat template is no Jinja template. {_WAY_OUT}") from None
    except RecursionError:
        raise ModelError(f"the chat template is nested too deep. {_WAY_OUT}") from None
    if next(tree.find_all(nodes.Pow), None) is not None:
        raise ModelError(f"the chat template raises numbers to powers (**), which no chat needs. {_WAY_OUT}")
