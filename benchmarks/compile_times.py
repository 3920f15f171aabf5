"""python benchmarks/compile_times.py: how long each preset's training step takes to compile, without any cache."""

import argparse
import sys

import jax

from accelerator import Case, Program
from alexnet_jax.config.presets import PRESETS, preset
from contestants.turns import markdown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("presets", nargs="*", default=list(PRESETS), help="presets (default: all)")
    options = parser.parse_args()
    jax.config.update("jax_enable_compilation_cache", False)
    rows = []
    for name in options.presets:
        batch = preset(name).optim.batch
        seconds = Program(Case(name, "train", "float32", batch)).compile_seconds
        print(f"{name}, batch {batch}: {seconds:.1f} s", file=sys.stderr, flush=True)
        rows.append([f"`{name}`", str(batch), f"{seconds:.1f}"])
    print(markdown(["preset", "batch", "seconds to lower and compile"], rows), end="")


if __name__ == "__main__":
    main()
