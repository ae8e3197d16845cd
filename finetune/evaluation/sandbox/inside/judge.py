"""The process that runs the tests and gives the verdict. Foreign code runs in another one, the candidate.

A name of the code that a test uses stands for the candidate's: calling it sends the arguments over and returns the
value that comes back. So the comparison, the assert statement and the verdict are out of the foreign code's reach, and
an early exit of it is the end of its test.
"""

import ast
import builtins
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from .candidate import serve
from .frames import PipeClosed, read_frame, write_frame
from .values import decode, encode


class Gone(BaseException):
    """The candidate has ended; no test goes on without it, whatever it catches."""


class CandidateError(Exception):
    """An exception of the candidate that Python does not know by name."""


class Link:
    """The judge's side of the two pipes to the candidate."""

    def __init__(self, requests: int, replies: int) -> None:
        self._requests, self._replies = requests, replies
        self.num_calls = 0
        self.after: list[object] = []
        """What the last call left in the arguments that can be changed."""
        self.gone = ""

    def receive(self) -> Any:
        """Return the value of the next reply, or raise the exception that it tells of."""
        if self.gone:
            raise Gone(self.gone)
        try:
            reply: Any = read_frame(self._replies)
            error = (str(reply["error"]), str(reply["text"]), bool(reply["ends"])) if "error" in reply else None
            value = None if error else decode(reply["value"], self._object)
            self.after = [decode(item, self._object) for item in reply.get("after") or ()]
        except PipeClosed:
            self.end("the code ended its process")
        except Exception:
            self.end("the code sent what is no value")
        if error:
            raise self._exception(*error)
        return value

    def ask(self, **request: object) -> Any:
        """Send a request and return the value of the reply."""
        if self.gone:
            raise Gone(self.gone)
        try:
            write_frame(self._requests, request)
        except PipeClosed:
            self.end("the code ended its process")
        return self.receive()

    def end(self, reason: str) -> NoReturn:
        """Let no test go on."""
        self.gone = reason
        raise Gone(reason)

    def encode(self, value: object) -> object:
        """Encode an argument; objects of the candidate go back by their number.

        Raises:
            TypeError: it cannot be sent.
        """

        def number_of(value: object) -> list[object]:
            if isinstance(value, Remote):
                return ["object", object.__getattribute__(value, "_number"), ""]
            raise TypeError(f"a {type(value).__name__} cannot be handed to the code under test")

        return encode(value, number_of)

    def _object(self, number: int, type_name: str) -> "Remote":
        return Remote(self, number, type_name)

    def _exception(self, name: str, text: str, ends: bool) -> Exception:
        kind = getattr(builtins, name, None)
        if ends:
            self.end(f"the code raised {name[:80]}")
        if isinstance(kind, type) and issubclass(kind, Exception):
            try:
                return kind(text)
            except TypeError:  # such as UnicodeDecodeError, which wants more than a text
                pass
        return CandidateError(f"{name[:80]}: {text}")


class Remote:
    """An object of the candidate, such as a function. Two are equal only if they are the same object."""

    def __init__(self, link: Link, number: int, type_name: str) -> None:
        object.__setattr__(self, "_link", link)
        object.__setattr__(self, "_number", number)
        object.__setattr__(self, "_type_name", type_name)

    def __call__(self, *arguments: object, **named: object) -> object:
        link: Link = object.__getattribute__(self, "_link")
        link.num_calls += 1
        value = link.ask(
            kind="call",
            object=object.__getattribute__(self, "_number"),
            args=[link.encode(item) for item in arguments],
            kwargs={name: link.encode(item) for name, item in named.items()},
        )
        for item, after in zip(arguments, link.after, strict=False):
            _overwrite(item, after)
        return value

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        link: Link = object.__getattribute__(self, "_link")
        return link.ask(kind="getattr", object=object.__getattribute__(self, "_number"), name=name)

    def __setattr__(self, name: str, value: object) -> None:
        link: Link = object.__getattribute__(self, "_link")
        number = object.__getattribute__(self, "_number")
        link.ask(kind="setattr", object=number, name=name, value=link.encode(value))


def _overwrite(item: object, after: object) -> None:
    """Give an argument of the test the content that the candidate left in it."""
    if type(item) is not type(after):
        return
    if isinstance(item, list | bytearray) and item != after:
        item[:] = after  # pyright: ignore[reportArgumentType, reportCallIssue]
    elif isinstance(item, dict | set) and item != after:
        item.clear()
        item.update(after)  # pyright: ignore[reportArgumentType, reportCallIssue]


def judge(readings: Sequence[str], entry_point: str | None, source: int) -> dict[str, object]:
    """Fork the candidate with the ways to read its code, then read the tests from `source`, run them and judge.

    The tests are read only after the fork, so that the candidate's memory holds nothing of them.
    """
    link = _start(readings, entry_point)
    job: Any = read_frame(source)
    try:
        link.receive()
    except BaseException as error:
        return _verdict(error, "the code")
    namespace: dict[str, Any] = {"__name__": "tests"}
    try:
        trees = [ast.parse(test) for test in job["tests"]]
        for name in sorted(_names_of_code(trees, entry_point)):
            if name in sys.stdlib_module_names and name != entry_point:
                namespace[name] = importlib.import_module(name)  # never the code's own `math`
                continue
            try:
                namespace[name] = link.ask(kind="global", name=name)
            except KeyError:
                continue
    except BaseException as error:
        return _verdict(error, "the tests")
    function = namespace.get(entry_point or "")  # a function `check` of the tests may take its name
    for number, (test, tree) in enumerate(zip(job["tests"], trees, strict=True)):
        try:
            exec(compile(tree, "<test>", "exec"), namespace)
        except BaseException as error:
            return _verdict(error, _failing(error, test, number))
    if entry_point is not None and _has_uncalled_check(trees):
        try:
            namespace["check"](function)
        except BaseException as error:
            return _verdict(error, _failing(error, "\n".join(job["tests"]), 0))
    return _conclusion(link, namespace)


def _start(readings: Sequence[str], entry_point: str | None) -> Link:
    requests_read, requests_write = os.pipe()
    replies_read, replies_write = os.pipe()
    if os.fork() == 0:
        serve(readings, entry_point, requests_read, replies_write)
    os.close(requests_read)
    os.close(replies_write)
    return Link(requests_write, replies_read)


def _names_of_code(trees: Sequence[ast.Module], entry_point: str | None) -> set[str]:
    """Names that the tests use and neither they nor Python define; the entry point whatever it is called."""
    used: set[str] = set()
    own: set[str] = set()
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else own).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            own.add(node.name)
        elif isinstance(node, ast.arg):
            own.add(node.arg)
        elif isinstance(node, ast.alias):
            own.add((node.asname or node.name).partition(".")[0])
    names = used - own - set(dir(builtins))
    return names | {entry_point} if entry_point else names


def _has_uncalled_check(trees: Sequence[ast.Module]) -> bool:
    """Whether the tests define `check(candidate)`, as HumanEval does, and leave it to the harness to call it."""
    functions = [node for tree in trees for node in tree.body if isinstance(node, ast.FunctionDef)]
    called = {
        node.value.func.id
        for tree in trees
        for node in tree.body
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Name)
    }
    return any(node.name == "check" and len(node.args.args) == 1 for node in functions) and "check" not in called


def _conclusion(link: Link, namespace: dict[str, Any]) -> dict[str, object]:
    """All statements ran; classes of unittest are still to be run, and something must have been called."""
    try:
        problems = list(_unittest_problems(namespace))
    except BaseException as error:
        return _verdict(error, "unittest")
    if problems:
        return {"passed": False, "reason": "failed", "detail": problems[0]}
    if link.gone:
        return {"passed": False, "reason": "exited", "detail": link.gone}
    if not link.num_calls:
        return {"passed": False, "reason": "failed", "detail": "no test calls the code"}
    return {"passed": True, "reason": "passed", "detail": ""}


def _unittest_problems(namespace: dict[str, Any]) -> Iterator[str]:
    if "unittest" not in sys.modules:
        return
    import io
    import unittest

    for case in namespace.values():
        if isinstance(case, type) and issubclass(case, unittest.TestCase) and case is not unittest.TestCase:
            suite = unittest.TestLoader().loadTestsFromTestCase(case)
            result = unittest.TextTestRunner(stream=io.StringIO()).run(suite)
            if not result.wasSuccessful() or not result.testsRun or result.skipped:
                yield f"{case.__name__} fails"


def _failing(error: BaseException, test: str, number: int) -> str:
    """The first line of the test's statement that failed."""
    trace, line = error.__traceback__, None
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == "<test>":
            line = trace.tb_lineno
        trace = trace.tb_next
    lines = test.splitlines()
    return lines[line - 1].strip()[:200] if line and line <= len(lines) else f"test {number + 1}"


def _verdict(error: BaseException, where: str) -> dict[str, object]:
    reason = "exited" if isinstance(error, Gone) else "failed"
    text = f"{type(error).__name__}: {error}" if not isinstance(error, Gone) else str(error)
    return {"passed": False, "reason": reason, "detail": f"{where}: {text}"[:400]}
