"""How this machine can shut a process in, and the proof that it does; before weights are loaded."""

import os
import shutil
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from finetune.errors import ConfigError

_INSIDE = Path(__file__).parent / "inside"
_WORK = "/work"


@dataclass(frozen=True, slots=True)
class Isolation:
    """A way to start a sandbox."""

    kind: str
    """`namespaces`: the guard makes them itself; `bubblewrap`: the program bwrap does."""
    bwrap: str = ""
    """Where bwrap is."""

    def command(self, disk_bytes: int) -> list[str]:
        """The command that starts a sandbox."""
        python = [str(Path(sys.executable).resolve()), "-I", "-S", "-B", "-X", "utf8", "-c"]
        start = "import sys; sys.path.insert(0, {!r}); from inside.guard import main; main()"
        if self.kind == "namespaces":
            return [*python, start.format(str(_INSIDE.parent))]
        return [self.bwrap, *_bubblewrap_options(disk_bytes), "--", *python, start.format("/sandbox")]


def find_isolation() -> Isolation:
    """Return the first way that is proved to shut a process in.

    Raises:
        ConfigError: there is none; with the reason and the cure.
    """
    isolation, reason = probe_isolation()
    if isolation is None:
        raise ConfigError(
            f"evaluation.run_code: this machine cannot shut generated code in: {reason}; leave "
            "evaluation.run_code=false, or evaluate on such a machine"
        )
    return isolation


@lru_cache(maxsize=1)
def probe_isolation() -> tuple[Isolation | None, str]:
    """The first way that is proved to shut a process in; or None, and why there is none and what would help."""
    from finetune.evaluation.sandbox.canary import breaches

    if not sys.platform.startswith("linux"):
        return None, "it needs Linux namespaces (on Windows: WSL 2; on macOS: a Linux machine or virtual machine)"
    reasons = []
    for isolation in candidates():
        found = breaches(isolation)
        if not found:
            return isolation, ""
        reasons.append(f"{isolation.kind}: {found[0]}")
    return None, f"{'; '.join(reasons)}; {_cure()}"


def candidates() -> Iterator[Isolation]:
    """The ways that could work here. bwrap comes second: it bounds neither the number of files nor root's processes."""
    yield Isolation("namespaces")
    bwrap = shutil.which("bwrap")
    if bwrap and os.geteuid() != 0:
        yield Isolation("bubblewrap", bwrap)


def _cure() -> str:
    """What makes namespaces possible, by what forbids them here."""
    for setting, closed, cure in (
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "install bubblewrap with its AppArmor profile, or set it to 0",
        ),
        ("kernel/unprivileged_userns_clone", "0", "allow them: sysctl kernel.unprivileged_userns_clone=1"),
        ("user/max_user_namespaces", "0", "allow them: sysctl user.max_user_namespaces=10000"),
    ):
        path = Path("/proc/sys", setting)
        if path.is_file() and path.read_text(encoding="ascii").strip() == closed:
            return f"{setting.replace('/', '.')} is {closed}: {cure}"
    return "it needs Linux 5.14 with user namespaces; a container must allow them (--security-opt seccomp=unconfined)"


@lru_cache(maxsize=1)
def python_mounts() -> dict[str, Any]:
    """What of this machine is seen inside: `shown` read-only, `hidden` below it, and `links`; what Python needs."""
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    libraries = ["/usr/lib64", "/lib64", *([f"/usr/lib/{multiarch}", f"/lib/{multiarch}"] if multiarch else [])]
    links = {str(path): str(path.readlink()) for path in (Path("/lib"), Path("/lib64")) if path.is_symlink()}
    if Path(sys.base_prefix) in (Path("/usr"), Path("/usr/local")):
        own = _library_of_system_python()
    else:
        own = [f"{sys.base_prefix}/lib"]
    wanted = dict.fromkeys([str(Path(sys.executable).resolve()), *libraries, *own, "/etc/ld.so.cache"])
    shown = [path for path in wanted if Path(path).exists() and not _under(path, links)]
    shown = [path for path in shown if not _under(path, [other for other in shown if other != path])]
    standard = Path(os.__file__).parent
    hidden = [str(standard / name) for name in ("site-packages", "dist-packages") if (standard / name).is_dir()]
    return {"shown": shown, "hidden": hidden, "links": links}


def _library_of_system_python() -> list[str]:
    import _ctypes  # an extension module: they may lie in a folder of their own

    shared = Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib", sysconfig.get_config_var("INSTSONAME") or "")
    modules = [str(Path(os.__file__).parent), str(Path(_ctypes.__file__).parent)]
    return [*modules, *([str(shared)] if shared.is_file() else [])]


def _under(path: str, folders: Iterable[str]) -> bool:
    return any(path == folder or path.startswith(folder + "/") for folder in folders)


def _bubblewrap_options(disk_bytes: int) -> list[str]:
    mounts = python_mounts()
    options = ["--unshare-user", "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    options += ["--unshare-cgroup", "--disable-userns", "--as-pid-1", "--die-with-parent", "--new-session"]
    options += ["--clearenv", "--cap-drop", "ALL", "--uid", "65534", "--gid", "65534"]
    for path, target in mounts["links"].items():
        options += ["--symlink", target, path]
    for path in mounts["shown"]:
        options += ["--ro-bind", path, path]
    for path in mounts["hidden"]:
        options += ["--size", "4096", "--perms", "0755", "--tmpfs", path, "--remount-ro", path]
    options += ["--ro-bind", str(_INSIDE), "/sandbox/inside", "--dev-bind", os.devnull, os.devnull]
    options += ["--perms", "0700", "--size", str(disk_bytes), "--tmpfs", _WORK, "--remount-ro", "/"]
    return [*options, "--chdir", _WORK]
