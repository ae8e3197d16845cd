"""Runs llama.cpp's own converter on whole model folders; started by the tests in a process of its own.

    python convert_whole.py <llama.cpp> <tasks.json>

Each task has `folder`, `type` (f32, f16, bf16, q8_0), `target`, and `pre`, the name of the pre-tokenizer where the
converter does not know the tokenizer by its hash. Where a conversion fails, `target`.failed holds the reason.
"""

import json
import sys
import traceback
from pathlib import Path
from typing import Any


def main(source: str, tasks: str) -> None:
    """Convert all folders, whatever becomes of any of them."""
    sys.path[:0] = [source, f"{source}/gguf-py"]
    import convert_hf_to_gguf
    from conversion.base import TextModel

    recognise: Any = TextModel.get_vocab_base_pre
    for task in json.loads(Path(tasks).read_text(encoding="utf-8")):

        def name_of(self: Any, tokenizer: Any, pre: str = task["pre"]) -> str:
            try:
                return recognise(self, tokenizer)
            except NotImplementedError:
                return pre

        TextModel.get_vocab_base_pre = name_of
        sys.argv = ["convert", task["folder"], "--outtype", task["type"], "--outfile", task["target"]]
        try:
            convert_hf_to_gguf.main()
        except (Exception, SystemExit):
            Path(f"{task['target']}.failed").write_text(traceback.format_exc(), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
