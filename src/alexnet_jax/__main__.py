"""python -m alexnet_jax: the commands."""

from rich.console import Console
from rich.table import Table

from alexnet_jax.config.presets import PRESETS

COMMANDS = {
    "train": "train a network, or go on where training was interrupted",
    "evaluate": "top-1 and top-5 error of a run, with one crop or ten",
    "predict": "the five likeliest classes of pictures",
    "diagnose": "why a loss does not move, from one batch of pictures",
    "convert": "bring in weights of Caffe, ONNX or PyTorch, or take a network out as StableHLO",
    "prepare": "make a data directory",
}

if __name__ == "__main__":
    table = Table("command", "what it does", box=None)
    for name, purpose in COMMANDS.items():
        table.add_row(f"python -m alexnet_jax.{name}", purpose)
    console = Console(highlight=False)
    console.print(table)
    console.print(f"Presets: {', '.join(PRESETS)}. Each command explains itself with --help.")
