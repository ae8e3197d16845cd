"""Python and the installed packages: against what the package asks for, against the lock, against known trouble."""

import importlib.metadata
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from finetune.diagnosis.finding import Finding, error, ok, warning

if TYPE_CHECKING:
    from packaging.requirements import Requirement

PROJECT = "finetune"
OLDEST_PYTHON = (3, 11)
_NOT_FOR_USERS = ("dev",)
"""Extras that a run never needs."""
_SHOWN = 6
"""Packages named in one line."""
_NEIGHBOURS = ("torchvision", "torchaudio", "xformers", "flash-attn", "deepspeed", "unsloth", "liger-kernel", "vllm")
"""Packages that are not needed here, and break or change those that are when they do not fit them."""


class KnownTrouble(NamedTuple):
    """Versions of a package that harm although every requirement is met."""

    package: str
    versions: str
    """PEP 440 specifier; empty for any version."""
    text: str
    cure: str


KNOWN_TROUBLE = (
    KnownTrouble(
        "kernels",
        "",
        "bitsandbytes and transformers fetch native code from the hub when this package is there",
        "pip uninstall kernels",
    ),
    KnownTrouble(
        "bitsandbytes-rocm",
        "",
        "it puts its files over those of bitsandbytes",
        "pip uninstall bitsandbytes-rocm, then install bitsandbytes again",
    ),
    KnownTrouble(
        "unsloth",
        "",
        "it replaces functions of transformers, trl and peft once anything imports it",
        "use an environment of its own for it",
    ),
)


def check_python() -> Iterator[Finding]:
    """Check the version of the interpreter, and that it computes with 64 bits."""
    found = f"{platform.python_version()} ({platform.machine()}, {platform.system()}) in {sys.prefix}"
    if sys.version_info[:2] < OLDEST_PYTHON:
        wanted = ".".join(map(str, OLDEST_PYTHON))
        yield error("Python", f"{found} is too old", f"use Python {wanted} or newer")
    elif sys.maxsize < 2**32:
        yield error("Python", f"{found} has 32 bits", "use a 64-bit Python: torch has no build for this one")
    else:
        yield ok("Python", found)


def check_required() -> Iterator[Finding]:
    """Check that every package that a run needs is installed in a version that the project is made for."""
    groups = _declared()
    if groups is None:
        yield warning(
            "packages", f"{PROJECT} runs from its sources and is not installed", "pip install --editable . beside it"
        )
        return
    problems = {str(wanted): problem for wanted in groups.pop("") if (problem := _problem(wanted))}
    for wanted, problem in problems.items():
        yield error("packages", problem, f"pip install '{wanted}'")
    if not problems:
        yield ok("packages", "every required package is there, in a version of its range")
    for extra, requirements in sorted(groups.items()):
        yield _extra_finding(extra, requirements)


def _extra_finding(extra: str, requirements: "list[Requirement]") -> Finding:
    cure = f"pip install '{PROJECT}[{extra}]'"
    problems = [problem for wanted in requirements if (problem := _problem(wanted))]
    present = [wanted for wanted in requirements if installed_version(wanted.name) is not None]
    if not present:
        return ok(f"extra {extra}", f"not installed ({cure})")
    if problems:
        return warning(f"extra {extra}", ", ".join(problems), cure)
    return ok(f"extra {extra}", ", ".join(f"{one.name} {installed_version(one.name)}" for one in requirements))


def check_lock() -> Iterator[Finding]:
    """Compare what is installed with the versions that were tested; packages that are not installed do not count."""
    path = find_lock()
    if path is None:
        yield warning("lock", "requirements.lock was not found", "install the package again; it brings the file along")
        return
    from packaging.version import Version

    pinned = read_lock(path)
    installed = {name: found for name in pinned if (found := installed_version(name)) is not None}
    other = {name: found for name, found in installed.items() if Version(found).public != Version(pinned[name]).public}
    if not other:
        yield ok("lock", f"{len(installed)} packages are installed as requirements.lock names them")
        return
    shown = ", ".join(f"{name} {found} (tested: {pinned[name]})" for name, found in list(other.items())[:_SHOWN])
    more = f" and {len(other) - _SHOWN} more" if len(other) > _SHOWN else ""
    pins = " ".join(f"{name}=={pinned[name]}" for name in list(other)[:_SHOWN])
    yield warning("lock", f"{len(other)} of {len(installed)} packages differ: {shown}{more}", f"pip install {pins}")


def check_conflicts() -> Iterator[Finding]:
    """Find installed packages whose own requirements are not met, among the locked ones and their usual neighbours."""
    from packaging.requirements import InvalidRequirement, Requirement

    path = find_lock()
    names = [*(read_lock(path) if path else ()), *_NEIGHBOURS]
    num_found = 0
    for name in names:
        if installed_version(name) is None:
            continue
        for text in importlib.metadata.requires(name) or ():
            try:
                wanted = Requirement(text)
            except InvalidRequirement:
                continue
            if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
                continue
            wanted.marker = None
            problem = _problem(wanted)
            if problem:
                num_found += 1
                yield warning("packages", f"{name} does not fit: {problem}", f"pip install '{wanted}'")
    if not num_found:
        yield ok("packages", "no two of them contradict each other")


def check_known_trouble() -> Iterator[Finding]:
    """Name packages that are known to harm."""
    from packaging.specifiers import SpecifierSet

    for trouble in KNOWN_TROUBLE:
        found = installed_version(trouble.package)
        if found is not None and SpecifierSet(trouble.versions).contains(found, prereleases=True):
            yield warning("packages", f"{trouble.package} {found} is installed: {trouble.text}", trouble.cure)


def find_lock() -> Path | None:
    """Return requirements.lock: inside a wheel, else in the checkout; None where it is missing."""
    package = Path(__file__).resolve().parent.parent
    places = (package / "_bundled" / "requirements.lock", package.parent / "requirements.lock")
    return next((place for place in places if place.is_file()), None)


def read_lock(path: Path) -> dict[str, str]:
    """Read the pinned version of every package, by normalised name; hashes and comments are passed over."""
    from packaging.utils import canonicalize_name

    pins: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, separator, rest = line.partition("#")[0].partition("==")
        if separator and rest.split():
            pins[canonicalize_name(name.strip())] = rest.split()[0].rstrip("\\;")
    return pins


def installed_version(name: str) -> str | None:
    """Return the version of an installed package, None where it is not there."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _declared() -> "dict[str, list[Requirement]] | None":
    """Return the project's requirements by extra ('' for those that are always needed); None if not installed."""
    from packaging.requirements import Requirement

    try:
        metadata = importlib.metadata.metadata(PROJECT)
    except importlib.metadata.PackageNotFoundError:
        return None
    groups: dict[str, list[Requirement]] = {"": []}
    groups |= {extra: [] for extra in metadata.get_all("Provides-Extra") or () if extra not in _NOT_FOR_USERS}
    for text in metadata.get_all("Requires-Dist") or ():
        wanted = Requirement(text)
        marker = wanted.marker
        wanted.marker = None
        if marker is None or marker.evaluate({"extra": ""}):
            groups[""].append(wanted)
            continue
        for extra in groups.keys() - {""}:
            if marker.evaluate({"extra": extra}):
                groups[extra].append(wanted)
    return groups


def _problem(wanted: "Requirement") -> str:
    """Say what is wrong with the installed version of a requirement; empty where nothing is."""
    found = installed_version(wanted.name)
    if found is None:
        return f"{wanted.name} is not installed"
    return (
        "" if wanted.specifier.contains(found, prereleases=True) else f"{wanted.name} {found} is not {wanted.specifier}"
    )
