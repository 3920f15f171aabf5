"""python -m alexnet_jax: the commands."""

from rich.console import Console
from rich.table import Table

from alexnet_jax.presets import PRESETS

COMMANDS = {
    "train": "train a network, or go on where training was interrupted",
    "evaluate": "top-1 and top-5 error of a run, with one crop or ten",
    "prepare": "make a data directory",
}

if __name__ == "__main__":
    table = Table("command", "what it does", box=None)
    for name, purpose in COMMANDS.items():
        table.add_row(f"python -m alexnet_jax.{name}", purpose)
    console = Console(highlight=False)
    console.print(table)
    console.print(f"Presets: {', '.join(PRESETS)}. Each command explains itself with --help.")
