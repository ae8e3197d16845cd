"""The whole life of a run, from rows to a verified specialist: `python -m finetune recipe=…`."""

from finetune.config import RunConfig
from finetune.holding import let_go_of
from finetune.interruption import raise_if_wished
from finetune.jobs import evaluate, export, report, train
from finetune.jobs.processes import on_main_process
from finetune.jobs.steps import check_cheaply
from finetune.offline import as_configured
from finetune.run import RunFolder, open_folder


@as_configured
def run(config: RunConfig) -> RunFolder:
    """Check, train, evaluate base against tuned, export, verify and report; returns the run folder.

    With `resume=true` only the parts that are missing are done.

    Raises:
        FinetuneError: a mistake of the user (nothing is left behind), a failed training or a failed verification.
    """
    rows = check_cheaply(config)
    folder, state = on_main_process(lambda: open_folder(config))
    with let_go_of(folder.path):
        tuned = train.train_part(config, rows, folder, state)
        if tuned is None:  # only the main process goes on after the training
            return folder
        evaluate.evaluate_part(config, rows, tuned, folder)
        raise_if_wished()
        export.export_part(config, rows, tuned, folder)
        raise_if_wished()
        report.report_part(config, folder)
        export.check_verified(config, folder)
    return folder
