"""Signals: SIGINT and SIGTERM end a run cleanly, SIGUSR1 asks for a checkpoint. Set up by `__main__`.

Outside of training a signal raises `Interrupted` wherever the program is: what was begun is cleaned up, nothing is
half-written. Inside `deferred()` it is kept as a wish, which the training grants at the end of the step. A second
SIGINT ends at once.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from finetune.errors import EXIT_FAILED
from finetune.log import is_main_process


class Interrupted(KeyboardInterrupt):
    """A signal asks this process to end; no `except Exception` on the way stops it."""


@dataclass(slots=True)
class _Wishes:
    stop: str = ""
    """Name of the first signal that asked for an end."""
    save: bool = False
    deferrals: int = 0
    """How many `deferred` blocks are open."""
    raised: bool = False


_wishes = _Wishes()


@contextlib.contextmanager
def listening() -> Iterator[None]:
    """Handle the signals inside the block, on the main thread; elsewhere they do what they did before."""
    global _wishes
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _wishes = _Wishes()
    known = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
    before = {number: signal.signal(number, _receive) for number in known}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _wishes = _Wishes()


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Let signals wait inside the block, which looks at `stop_wish` and `take_save_wish` itself.

    Raises:
        Interrupted: at the end of the block, if an end was asked for meanwhile; inside it at a second SIGINT.
    """
    _wishes.deferrals += 1
    try:
        yield
    finally:
        _wishes.deferrals -= 1
    raise_if_wished()


def stop_wish() -> str:
    """Return the name of the signal that asked for an end, or an empty string."""
    return _wishes.stop


def wish_stop(reason: str) -> None:
    """Ask for an end in the name of another process's signal."""
    _wishes.stop = _wishes.stop or reason


def take_save_wish() -> bool:
    """Whether SIGUSR1 came since the last call."""
    wish, _wishes.save = _wishes.save, False
    return wish


def raise_if_wished() -> None:
    """Raise what a signal asked for, if it was held back or lost in a finalizer.

    Raises:
        Interrupted: an end was asked for, and no `deferred` block is open.
    """
    if _wishes.stop and not _wishes.deferrals:
        _raise()


def _raise() -> None:
    _wishes.raised = True
    raise Interrupted(_wishes.stop)


def _receive(number: int, frame: Any) -> None:
    name = signal.Signals(number).name
    if name == "SIGUSR1":
        _wishes.save = True
        _say("SIGUSR1: a checkpoint is saved at the end of the step" if _wishes.deferrals else "SIGUSR1: not training")
        return
    is_again = bool(_wishes.stop)
    _wishes.stop = _wishes.stop or name
    if not is_again and _wishes.deferrals:
        _say(f"{name}: stopping at the end of this step, with a checkpoint (a second Ctrl-C ends at once)")
    elif not is_again or (name == "SIGINT" and not _wishes.raised):
        _raise()
    elif name == "SIGINT":
        _say("stopped at once")
        os._exit(EXIT_FAILED)


def _say(text: str) -> None:
    """Write a line past all buffers and locks, one of which the interrupted code may hold."""
    if is_main_process():
        with contextlib.suppress(OSError):
            os.write(2, f"finetune: {text}\n".encode())
