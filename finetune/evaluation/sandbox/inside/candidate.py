"""The process that runs foreign code: it defines its functions once and answers the judge's calls.

It knows neither the tests nor what they expect, and nothing that it could print, raise or return says "passed".
"""

import os
import sys
from collections.abc import Callable, Sequence
from types import CodeType
from typing import Any

from .frames import PipeClosed, read_frame, write_frame
from .values import decode, encode

_MUTABLE = (list, dict, set, bytearray)


def serve(readings: Sequence[str], entry_point: str | None, requests: int, replies: int) -> None:
    """Run the code, then answer until the pipe closes. Never returns to the caller's code."""
    try:
        _close_all_but(requests, replies)
        namespace: dict[str, Any] = {"__name__": "candidate", "__builtins__": __builtins__}
        objects: list[object] = []

        def number_of(value: object) -> list[object]:
            objects.append(value)
            return ["object", len(objects) - 1, type(value).__name__]

        def answer(work: Callable[[], object]) -> None:
            try:
                reply = {"value": encode(work(), number_of)}
            except BaseException as error:
                reply = _error(error)
            write_frame(replies, reply)

        answer(lambda: exec(_compiled(readings, entry_point), namespace))
        while True:
            request: Any = read_frame(requests)
            if request["kind"] == "call":
                write_frame(replies, _call(request, objects, number_of))
            else:
                answer(lambda request=request: _look_up(request, namespace, objects))
    except PipeClosed:
        pass
    finally:
        os._exit(0)


def _compiled(readings: Sequence[str], entry_point: str | None) -> CodeType:
    """The first reading that is Python and defines the entry point, else the first that is Python."""
    compiled: list[CodeType] = []
    problem: Exception | None = None
    for reading in readings:
        try:
            compiled.append(compile(reading, "<code>", "exec"))
        except (SyntaxError, ValueError) as error:
            problem = problem or error
    if not compiled and problem is not None:
        raise problem
    return next((code for code in compiled if entry_point in code.co_names), compiled[0])


def _close_all_but(*pipes: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    for number in range(3, 1024):
        if number not in pipes:
            try:
                os.close(number)
            except OSError:
                continue
    sys.argv = ["candidate"]
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115


def _error(error: BaseException) -> dict[str, object]:
    try:
        text = str(error)[:300]
    except BaseException:
        text = ""
    return {"error": type(error).__name__, "text": text, "ends": not isinstance(error, Exception)}


def _look_up(request: Any, namespace: dict[str, Any], objects: list[object]) -> object:
    if request["kind"] == "global":
        return namespace[request["name"]]
    owner: Any = objects[request["object"]]
    if request["kind"] == "getattr":
        return getattr(owner, request["name"])
    if request["kind"] == "setattr":
        return setattr(owner, request["name"], decode(request["value"], lambda number, _: objects[number]))
    raise ValueError(request["kind"])


def _call(request: Any, objects: list[object], number_of: Callable[[object], list[object]]) -> dict[str, object]:
    """Call a function; arguments that it changed in place are sent back with the result."""
    try:
        arguments = [decode(item, lambda number, _: objects[number]) for item in request["args"]]
        named = {name: decode(item, lambda number, _: objects[number]) for name, item in request["kwargs"].items()}
        function: Any = objects[request["object"]]
        reply: dict[str, object] = {"value": encode(function(*arguments, **named), number_of)}
        if any(isinstance(item, _MUTABLE) for item in arguments):
            after = [encode(item, number_of) if isinstance(item, _MUTABLE) else None for item in arguments]
            reply["after"] = after
        return reply
    except BaseException as error:
        return _error(error)
