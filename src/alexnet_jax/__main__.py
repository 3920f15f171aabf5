"""python -m alexnet_jax: the commands."""

from rich.console import Console
from rich.table import Table

from alexnet_jax.config.presets import PRESETS

COMMANDS = {
    "train": "train a network, or continue an interrupted run",
    "evaluate": "measure the top-1 and top-5 error of a run, with one crop or ten",
    "ablate": "measure experiments against a baseline over seeds, and write the table",
    "predict": "name the five most likely classes of images",
    "diagnose": "find out from one batch why a loss does not move",
    "communication": "show what a training step sends between devices, and what other layouts would",
    "convert": "import weights from Caffe, ONNX or PyTorch, or export a network as StableHLO",
    "prepare": "turn folders, archives or datasets of images into a data directory",
}

if __name__ == "__main__":
    table = Table("command", "what it does", box=None)
    for name, purpose in COMMANDS.items():
        table.add_row(f"python -m alexnet_jax.{name}", purpose)
    console = Console(highlight=False)
    console.print(table)
    console.print(f"Presets: {', '.join(PRESETS)}. Every command has --help.")
