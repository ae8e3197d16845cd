"""Runs llama.cpp's own converter on model folders that hold no tokenizer; started by the tests in a process of its own.

    python convert.py <llama.cpp> <folder> …

writes <folder>/converted.gguf, or <folder>/failed.txt with the reason.
"""

import logging
import sys
import traceback
from pathlib import Path


def convert(folder: Path) -> None:
    """Convert one folder to 32 bits with the converter's own class, its vocabulary step left out."""
    import gguf
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class

    config = ModelBase.load_hparams(folder, False)
    found = get_model_class(get_model_architecture(config, ModelType.TEXT), mmproj=False)
    without_vocabulary = type(
        found.__name__, (found,), {"model_arch": found.model_arch, "set_vocab": lambda self: None}
    )
    without_vocabulary(folder, gguf.LlamaFileType.ALL_F32, folder / "converted.gguf").write()


def main(source: str, *folders: str) -> None:
    """Convert all folders, whatever becomes of any of them."""
    sys.path[:0] = [source, f"{source}/gguf-py"]
    logging.disable(logging.WARNING)
    for folder in map(Path, folders):
        try:
            convert(folder)
        except Exception:
            (folder / "failed.txt").write_text(traceback.format_exc(), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
