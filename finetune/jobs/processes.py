"""Several processes, one run folder: the main process decides and writes, the others follow."""

from collections.abc import Callable
from typing import TypeVar

from finetune.errors import FinetuneError
from finetune.log import is_main_process, num_processes

Result = TypeVar("Result")


def on_main_process(decide: Callable[[], Result]) -> Result:
    """Call `decide` on the main process and give its result, or its FinetuneError, to all processes."""
    if num_processes() == 1:
        return decide()
    outcome: list[object] = [None]
    if is_main_process():
        try:
            outcome = [decide()]
        except FinetuneError as error:
            outcome = [error]
    _connect()
    from torch.distributed import broadcast_object_list

    broadcast_object_list(outcome)
    if isinstance(outcome[0], FinetuneError):
        raise outcome[0]
    return outcome[0]  # type: ignore[return-value]


def _connect() -> None:
    import torch
    from accelerate import PartialState

    if torch.cuda.is_available():
        PartialState()
    else:
        PartialState(cpu=True, backend="gloo")


def leave_training() -> None:
    """End the processes' connection: what follows the training happens on the main process alone."""
    if num_processes() > 1:
        import torch.distributed

        torch.distributed.barrier()
        torch.distributed.destroy_process_group()
