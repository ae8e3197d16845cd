"""The command line: `python -m finetune [command] key=value …`.

Picks the command, hands the rest to Hydra, and prints any FinetuneError in one line. Heavy libraries are imported
by the jobs, after everything that can be checked without them has been checked.
"""

import contextlib
import logging
import os
import select
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

from finetune import __version__
from finetune.allocator import restart_with_tunables
from finetune.errors import EXIT_FAILED, EXIT_NO_READER, ConfigError, FinetuneError, did_you_mean, one_line
from finetune.interruption import listening
from finetune.log import is_main_process, num_processes, quiet_libraries, set_up_logging
from finetune.model.hardware import gpu_seems_present
from finetune.secrets import redact

COMMANDS = {
    "run": "the whole life: check the data, train, evaluate, export, verify, report (the default)",
    "train": "train the adapter only",
    "evaluate": "compare base and tuned model of a finished training",
    "export": "merge, write and verify the model of a finished training",
    "plan": "say whether it fits, how long it takes and what it costs, before anything is downloaded",
    "inspect": "show the configuration, the data's counts and a rendered example; loads no weights",
    "report": "write report.html and the model card again from the run folder",
    "prefetch": "download what a machine without network will need",
    "doctor": "check this machine and the installation; with a recipe, whether it could run here",
    "recipes": "list the recipes",
}
_HYDRA_FLAGS = ("--multirun", "-m", "--cfg", "-c", "--info", "-i", "--package", "-p", "--resolve")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0 done, 1 failed or stopped, 2 the user's mistake.

    141 where whoever read the output left before its end, as in `plan … | head`.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if argv is None and not gpu_seems_present():
        restart_with_tunables(words)
    quiet_libraries()
    set_up_logging(verbose="--verbose" in words)
    words = [word for word in words if word != "--verbose"]
    with listening():
        try:
            code = _dispatch(list(words))
            if sys.stdout is not None:
                sys.stdout.flush()
            return code
        except FinetuneError as error:
            command = f". Go on with: {shlex.join(continuing(words))}" if error.can_resume else ""
            _say_error(f"{one_line(error)}{command}")
            return error.exit_code
        except KeyboardInterrupt as interrupt:
            _say_error(f"stopped by {one_line(interrupt)}; go on with: {shlex.join(continuing(words))}")
            return EXIT_FAILED
        except Exception as error:
            if isinstance(error, BrokenPipeError) and _reader_left():
                _discard_output()
                return EXIT_NO_READER
            return _unexpected(error)


def continuing(words: Sequence[str]) -> list[str]:
    """Return the command that goes on where the one with these words was stopped."""
    launch = ["python", "-m", "finetune"]
    if num_processes() > 1:
        num_here = os.environ.get("LOCAL_WORLD_SIZE", str(num_processes()))
        launch = ["torchrun", "--nproc_per_node", num_here, "-m", "finetune"]
    if words and "=" not in words[0] and words[0] not in ("run", "train") and not words[0].startswith("-"):
        return [*launch, *words]
    kept = [word for word in words if word.partition("=")[0] not in ("resume", "overwrite")]
    return [*launch, *kept, "resume=true"]


def _dispatch(words: list[str]) -> int:
    if "--help" in words or "-h" in words:
        print(help_text())
        return 0
    if "--version" in words:
        print(f"finetune {__version__}")
        return 0
    command = "run"
    if words and "=" not in words[0] and not words[0].startswith("-"):
        command = words.pop(0)
    if command not in COMMANDS:
        raise ConfigError(f"{command!r} is no command.{did_you_mean(command, COMMANDS)} See python -m finetune --help")
    if command == "recipes":
        _refuse_words(words)
        print(_recipe_table())
        return 0
    if command == "doctor" and not words:
        _job(command)(None)  # without Hydra, which a broken installation may lack
        return 0
    _compose_and_call(_job(command), words, needs_weights=command != "plan")
    return 0


def _refuse_words(words: Sequence[str]) -> None:
    if words:
        raise ConfigError(f"recipes takes no options, but got {' '.join(words)!r}")


def _job(command: str) -> Callable[[Any], object]:
    def call(config: Any) -> object:
        import importlib

        return getattr(importlib.import_module(f"finetune.jobs.{command}"), command)(config)

    return call


def _compose_and_call(job: Callable[[Any], object], words: Sequence[str], *, needs_weights: bool = True) -> None:
    """Let Hydra compose the words into a configuration (or several, in a sweep) and call the job on each."""
    import hydra

    from finetune.compose import explain, finish, prepare_overrides

    flags, typed = _split_flags(words)
    prepared = prepare_overrides(typed, sweep=bool({"-m", "--multirun"} & set(flags)))
    os.environ["HYDRA_FULL_ERROR"] = "1"
    failures: list[Exception] = []

    def task(raw: Any) -> None:
        # Hydra would print its own lines about an exception, so it never sees one; a sweep ends at the first.
        if failures:
            return
        try:
            job(finish(raw, _choices(typed), needs_weights=needs_weights))
        except Exception as error:
            failures.append(error)

    entry = hydra.main(version_base="1.3", config_path="pkg://finetune.conf", config_name="run")(task)
    arguments = sys.argv
    try:
        sys.argv = ["finetune", *flags, *prepared]
        entry()
    except BrokenPipeError:
        raise
    except Exception as error:
        raise explain(error) from error
    finally:
        sys.argv = arguments
    if failures:
        raise failures[0]


def _choices(typed: Sequence[str]) -> list[str]:
    """Return the overrides of this job: as typed, or in a sweep as Hydra resolved them."""
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    is_sweep = hydra.mode is not None and hydra.mode.name == "MULTIRUN"
    return list(hydra.overrides.task) if is_sweep else list(typed)


def _split_flags(words: Sequence[str]) -> tuple[list[str], list[str]]:
    flags: list[str] = []
    typed: list[str] = []
    for word in words:
        takes_value = flags and flags[-1] in ("--cfg", "-c", "--info", "-i", "--package", "-p") and "=" not in word
        if takes_value and not word.startswith("-"):
            flags.append(word)
        elif word.startswith("-"):
            if word.split("=")[0] not in _HYDRA_FLAGS:
                raise ConfigError(f"{word!r} is no option.{did_you_mean(word, [*_HYDRA_FLAGS, '--help', '--verbose'])}")
            flags.append(word)
        else:
            typed.append(word)
    return flags, typed


def help_text() -> str:
    """Return the page that `--help` prints: commands, recipes, groups, examples."""
    from finetune.overrides import GROUPS, group_options

    commands = "\n".join(f"  {name:10} {what}" for name, what in COMMANDS.items())
    groups = "\n".join(f"  {group + '=':14} {', '.join(group_options(group))}" for group in GROUPS)
    return f"""Turn an open language model into a domain specialist on your own machine.

  python -m finetune [command] recipe=NAME key=value …

Commands
{commands}

Recipes (recipe=…)
{_recipe_table()}

Choices
{groups}

Options: any key of the configuration, such as training.num_epochs=2, data.path=rows.jsonl, adapter.rank=32,
seed=1, output_dir=outputs/mine, resume=true, overwrite=true, offline=true, use=commercial. `inspect` shows them all.

Examples
  python -m finetune recipe=quickstart
  python -m finetune recipe=legal_qlora model=embedded
  python -m finetune recipe=legal_qlora model=local model.path=~/models/llama data.path=contracts.jsonl
  python -m finetune -m recipe=quickstart seed=1,2,3 output_dir='outputs/seed_${{seed}}'

--verbose shows more messages, --cfg job prints the composed configuration, -m runs a sweep."""


def _recipe_table() -> str:
    from finetune.recipes import list_recipes, recipe_summary

    recipes = list_recipes()
    width = max((len(name) for name in recipes), default=0)
    return "\n".join(f"  {name:{width}}  {recipe_summary(path)}" for name, path in recipes.items())


def _reader_left() -> bool:
    """Whether standard output is a pipe that nobody reads any more."""
    with contextlib.suppress(OSError, ValueError, AttributeError):  # no file, or no `poll` on this system
        output = select.poll()
        output.register(sys.stdout, 0)
        return any(event & (select.POLLERR | select.POLLHUP) for _, event in output.poll(0))
    return False


def _discard_output() -> None:
    """Send what is still to be written nowhere, or Python would complain at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say_error(message: str) -> None:
    if is_main_process():
        print(f"finetune: {redact(message)}", file=sys.stderr)


def _unexpected(error: Exception) -> int:
    """Report a failure that nobody foresaw: one line, and the traceback when asked."""
    if isinstance(error, OSError) and error.errno is not None and error.filename:
        _say_error(f"{error.filename}: {error.strerror}")
        return EXIT_FAILED
    if "torch" in sys.modules and _is_out_of_memory(error):
        _say_error(
            "out of memory: end other programs that use it, or use less: lower training.max_length, "
            "evaluation.batch_tokens or data.max_rows, quantization=nf4, or a smaller model (run again with --verbose "
            "for the traceback)"
        )
        logging.getLogger("finetune").debug("traceback", exc_info=error)
        return EXIT_FAILED
    _say_error(
        f"unexpected {type(error).__name__}: {one_line(error)[:500]} (run again with --verbose for the traceback)"
    )
    logging.getLogger("finetune").debug("traceback", exc_info=error)
    return EXIT_FAILED


def _is_out_of_memory(error: Exception) -> bool:
    from finetune.model.hardware import is_out_of_memory

    return isinstance(error, MemoryError) or is_out_of_memory(error)


if __name__ == "__main__":
    sys.exit(main())
