"""python benchmarks/speed.py: how fast this package is, next to PyTorch, plain JAX and onnxruntime."""

import json
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal, get_args

import jax
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from alexnet_jax import command_line
from alexnet_jax.config import BadInput, Config, Precision
from alexnet_jax.config.presets import preset
from alexnet_jax.data.records import cores
from contestants import tables, whole_runs
from contestants.task import AGREE, Work, flops, task_config, write_task
from contestants.turns import Match, processor, ratios, versions_in

Kind = Literal["ours", "plain", "pytorch", "onnxruntime"]
Part = Literal["speed", "startup", "result"]

PROGRAM = "benchmarks/speed.py"
ROLES = Path(__file__).parent / "contestants"
KEPT = ", memory kept as ours"
MACHINE, PLAIN, ONNX = "the machine", f"plain JAX {jax.__version__}", "onnxruntime"


@dataclass(frozen=True)
class Options:
    """Times training and inference of this package next to PyTorch, plain JAX, onnxruntime and the machine itself.

    Each contestant is a process. They take turns, round by round, and ratios are taken within a round. A contestant
    whose loss differs is disqualified. After that: how long a command takes to start, and how long `fashion` takes to
    reach a given error.
    """

    presets: tuple[str, ...] = ("cuda_convnet", "one_weird_trick", "fashion", "tutorial")
    """presets, or Python files that define CONFIG"""
    batches: tuple[int, ...] = (1, 32, 128)
    work: tuple[Work, ...] = ("train", "infer")
    rounds: int = 5
    """rounds that count, after one warm-up round; also how often start-up is measured"""
    seconds: float = 2.0
    """approximate length of a turn; a turn is at least one step"""
    precision: Precision = "float32"
    """bfloat16 applies to the layers; parameters stay float32"""
    torch_python: str = sys.executable
    """a Python with PyTorch and NumPy"""
    also_python: tuple[str, ...] = ()
    """more Pythons that have this package, with other versions of JAX"""
    only: tuple[Kind, ...] = get_args(Kind)
    """which contestants take part"""
    parts: tuple[Part, ...] = get_args(Part)
    """what to measure"""
    target: float = 0.14
    """the part `result` waits until the one-crop validation error of fashion, a fraction, is this low"""
    seeds: int = 3
    """number of runs in the part `result`"""
    out: Path = Path("benchmark")
    """figures are written to OUT.json, tables to OUT.md"""


def enter_all(match: Match, options: Options, directory: Path, config: Config, work: Work) -> None:
    """Enters the requested contestants. Those that cannot take part are listed in `match.skipped`."""

    # The same settings that `command_line.keep_memory` makes for our commands.
    kept = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_ARENA_MAX": "1"}

    def enter(
        name: str,
        role: str,
        *arguments: str,
        python: str = sys.executable,
        devices: int = 1,
        memory: dict[str, str] | None = None,
    ) -> None:
        # On a GPU the other contestants need memory, too.
        environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "JAX_NUM_CPU_DEVICES": str(devices)} | (memory or {})
        match.enter(name, ROLES / f"{role}.py", *arguments, python=python, environment=environment)

    enter(MACHINE, "machine", options.precision)
    if "ours" in options.only:
        for python in (sys.executable, *options.also_python):
            for devices in range(1, config.model.columns + 1):
                name = f"alexnet_jax 1,{devices}, JAX {versions_in(python).get('jax')}"
                enter(name, "ours", str(directory), f"1,{devices}", python=python, devices=devices, memory=kept)
    if "plain" in options.only:
        enter(PLAIN, "plain_jax", str(directory))
    if "pytorch" in options.only:
        for layout in "NCHW", "NHWC":
            for mode in "eager", "compiled":
                enter(f"PyTorch {layout} {mode}", "pytorch", str(directory), layout, mode, python=options.torch_python)
        # Not PyTorch's default, so it does not compete for PyTorch's best. It shows what the setting is worth.
        name = f"PyTorch NHWC compiled{KEPT}"
        enter(name, "pytorch", str(directory), "NHWC", "compiled", python=options.torch_python, memory=kept)
    if "onnxruntime" in options.only and work == "infer":
        if options.precision == "float32":
            enter(ONNX, "onnx_runtime", str(directory))
        else:
            match.skipped[ONNX] = f"its graph is float32 only, not {options.precision}"


def disagreement(losses: list[float], reference: list[float], name: str, tolerance: float) -> str | None:
    """Why a contestant is disqualified, or None. `name` is the name of the reference."""
    if all(abs(own - right) <= tolerance * reference[0] for own, right in zip(losses, reference, strict=True)):
        return None
    return f"disqualified: its losses are {_listed(losses)}, but those of {name} are {_listed(reference)}"


def _listed(losses: list[float]) -> str:
    return ", ".join(f"{loss:.5g}" for loss in losses)


def play(match: Match, options: Options, tick: Callable[[], None]) -> dict[str, list[float]]:
    """Plays the check, the warm-up round and the rounds that count. Returns the losses from the check.

    A contestant is disqualified if it runs on another kind of device than the machine's own figures come from, or if
    its losses differ from those of the first contestant, which is this package.
    """
    answers = match.play(check=True)
    tick()
    place = answers.pop(MACHINE, {}).get("place")
    for name, answer in list(answers.items()):
        place = place or answer["place"]
        if answer["place"] != place:
            match.drop(name, f"disqualified: it runs on the {answers.pop(name)['place']}, the others on the {place}")
    losses = {name: answer["losses"] for name, answer in answers.items()}
    first = next(iter(losses), "")
    for name, own in losses.items():
        reason = disagreement(own, losses[first], first, AGREE[options.precision])
        if reason:
            match.drop(name, reason)
    for number in range(options.rounds + 1):
        answers = match.play(seconds=options.seconds)
        tick()
        if number:
            match.count(answers)
    return losses


def figures(values: list[float]) -> dict[str, Any]:
    return {"median": median(values), "least": min(values), "greatest": max(values), "rounds": values}


def cell(options: Options, name: str, work: Work, batch: int, tick: Callable[[], None]) -> dict[str, Any]:
    """The figures of all contestants for one network, one kind of work and one batch size."""
    config = task_config(command_line.named_config(name), batch)
    with tempfile.TemporaryDirectory() as directory, Match() as match:
        write_task(Path(directory), config, work, options.precision, cores())
        enter_all(match, options, Path(directory), config, work)
        losses = play(match, options, tick)
    machine = match.answers.pop(MACHINE, [])
    amount = flops(config.model, work, batch)
    speeds = {
        who: [batch * answer["steps"] / answer["seconds"] for answer in answers]
        for who, answers in match.answers.items()
    }
    torch_best = max(
        (who for who in speeds if who.startswith("PyTorch") and not who.endswith(KEPT)),
        key=lambda who: median(speeds[who]),
        default="",
    )
    of_contestants: dict[str, Any] = {}
    for who, speed in speeds.items():
        plain = PLAIN if who.endswith(f"JAX {jax.__version__}") else ""  # only compare within one version of JAX
        bases = {"PyTorch's best": torch_best, "plain JAX": plain, "onnxruntime": ONNX}
        over = {base: ratios(speeds, who, found) for base, found in bases.items()}
        of_contestants[who] = {
            "images_per_second": figures(speed),
            "ms_per_step": figures([1000 * batch / each for each in speed]),
            "over": {base: figures(values) for base, values in over.items() if values},
            "losses": losses[who],
        }
        if machine:
            shares = [each / batch * amount / answer["flops"] for each, answer in zip(speed, machine, strict=True)]
            of_contestants[who]["matmul_share"] = figures(shares)
    return {
        "preset": name,
        "work": work,
        "batch": batch,
        "flops_per_step": amount,
        "contestants": of_contestants,
        "torch_best": torch_best,
        "machine": {
            "device": machine[0]["device"],
            "matmul_gflops": figures([answer["flops"] / 1e9 for answer in machine]),
            "copy_gb_per_second": figures([answer["bytes"] / 1e9 for answer in machine]),
        }
        if machine
        else {},
        "skipped": match.skipped,
    }


def parse_options() -> Options:
    options = command_line.parse(Options, program=f"python {PROGRAM}")
    if min(options.rounds, options.seeds, *options.batches) < 1 or options.seconds <= 0:
        raise BadInput("--rounds, --seeds and --batches must be at least 1, and --seconds more than 0")
    for name in options.presets:
        task_config(command_line.named_config(name), 1)
    versions = [jax.__version__]
    for python in options.also_python:
        versions.append(versions_in(python).get("jax", ""))
        if not versions[-1]:
            raise BadInput(f"--also-python {python} is not a Python with JAX")
        if versions[-1] in versions[:-1]:
            raise BadInput(f"--also-python {python} has JAX {versions[-1]}, as another Python does; leave it out")
    if not options.out.absolute().parent.is_dir():
        raise BadInput(f"--out {options.out}: there is no directory {options.out.parent}; create it first")
    return options


class Report:
    """All figures so far, in OUT.json and OUT.md."""

    def __init__(self, options: Options) -> None:
        self._out = options.out
        self.saved = False
        pythons = dict.fromkeys((sys.executable, *options.also_python, options.torch_python))
        self.found: dict[str, Any] = {
            "command": shlex.join(["python", PROGRAM, *sys.argv[1:]]),
            "date": time.strftime("%Y-%m-%d"),
            "processor": processor(),
            "cores": cores(),
            "precision": options.precision,
            "versions": {python: versions_in(python) for python in pythons},
            "speed": [],
        }

    def save(self) -> None:
        self._out.with_name(self._out.name + ".json").write_text(json.dumps(self.found, indent=1) + "\n")
        self._out.with_name(self._out.name + ".md").write_text(tables.report(self.found))
        self.saved = True


def measure(options: Options, report: Report, show: Progress) -> None:
    """Measures everything that was asked for, and saves after each part."""
    cells = [(name, work, batch) for name in options.presets for work in options.work for batch in options.batches]
    torch_python = options.torch_python if "torch" in report.found["versions"][options.torch_python] else None
    programs = 3 if torch_python else 2
    ticks = {
        "speed": len(cells) * (options.rounds + 2),
        "startup": options.rounds * 2 * programs,
        "result": options.seeds * programs,
    }
    bar = show.add_task("", total=sum(ticks[part] for part in set(options.parts)))
    tick = partial(show.advance, bar)

    for name, work, batch in cells if "speed" in options.parts else []:
        show.update(bar, description=f"{name}, {work}, batch {batch}")
        found = cell(options, name, work, batch, tick)
        report.found["speed"].append(found)
        report.save()
    if set(options.parts) == {"speed"}:
        return
    if not torch_python:
        report.found["without_torch"] = f"{options.torch_python} has no PyTorch; give --torch-python"
    with tempfile.TemporaryDirectory() as name:
        inputs = Path(name)
        fashion = preset("fashion")
        write_task(inputs, fashion, "train", "float32", report.found["cores"])
        whole_runs.write_pictures(inputs, fashion)
        if "startup" in options.parts:
            show.update(bar, description="start-up")
            report.found["startup"] = whole_runs.start_up(options.rounds, torch_python, inputs, tick)
            report.save()
        if "result" in options.parts:
            show.update(bar, description=f"time to an error of {options.target:g}")
            times = whole_runs.time_to_result(options.target, options.seeds, torch_python, inputs, tick)
            report.found["result"] = {"target": options.target, "times": times}
            report.save()


def benchmark() -> None:
    jax.config.update("jax_platforms", "cpu")  # this process leaves the accelerators to the contestants
    options = parse_options()
    report = Report(options)
    parts = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    try:
        with Progress(*parts, console=Console(stderr=True, highlight=False)) as show:
            measure(options, report, show)
    except KeyboardInterrupt:
        kept = f"the figures so far are in {options.out}.json" if report.saved else "nothing has been measured yet"
        print(f"Interrupted; {kept}.", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    print(tables.report(report.found))


if __name__ == "__main__":
    command_line.main(benchmark)
