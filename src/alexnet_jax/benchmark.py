"""python -m alexnet_jax.benchmark: how fast this package is, beside PyTorch, plain JAX and onnxruntime."""

import dataclasses
import json
import math
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Literal, get_args

import jax
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from alexnet_jax import command_line, contestants
from alexnet_jax.config import BadInput, Config, Model, ModelConfig, TutorialConfig
from alexnet_jax.contestants import tables, whole_runs
from alexnet_jax.contestants.turns import Match, processor, ratios
from alexnet_jax.data.records import cores
from alexnet_jax.networks import functional
from alexnet_jax.presets import preset
from alexnet_jax.training import progress
from alexnet_jax.training.optimiser import decay_of, rate_of, rates

Kind = Literal["ours", "plain", "pytorch", "onnxruntime"]
Part = Literal["speed", "startup", "result"]
Work = Literal["train", "infer"]
Precision = Literal["float32", "tf32", "bfloat16"]

ROLES = Path(contestants.__file__).parent
KEPT = ", memory kept as ours"
MACHINE, PLAIN, ONNX = "the machine", f"plain JAX {jax.__version__}", "onnxruntime"
# Largest difference of a loss from ours, in units of the first.
AGREE: dict[Precision, float] = {"float32": 1e-3, "tf32": 5e-3, "bfloat16": 1e-2}


@dataclass(frozen=True)
class Options:
    """Times training steps and inference of this package beside PyTorch, plain JAX, onnxruntime and the machine itself.

    Each is a process; they take turns, round by round, and ratios are taken within a round. Who computes another loss
    is struck out. Then: how long a command takes to start, and to reach a given error of `fashion`.
    """

    presets: tuple[str, ...] = ("cuda_convnet", "one_weird_trick", "fashion", "tutorial")
    """presets, or Python files that define CONFIG"""
    batches: tuple[int, ...] = (1, 32, 128)
    work: tuple[Work, ...] = ("train", "infer")
    rounds: int = 5
    """rounds that count, behind one of practice; start-up is measured as often"""
    seconds: float = 2.0
    """that a turn lasts about, and at least one step"""
    precision: Precision = "float32"
    """bfloat16: of the layers, with parameters in float32"""
    torch_python: str = sys.executable
    """a Python that has torch and NumPy"""
    also_python: tuple[str, ...] = ()
    """further Pythons that have this package, and perhaps another JAX"""
    only: tuple[Kind, ...] = get_args(Kind)
    """contestants"""
    parts: tuple[Part, ...] = get_args(Part)
    """what is measured"""
    target: float = 0.14
    """one-crop validation error of fashion, as a fraction, that the part `result` waits for"""
    seeds: int = 3
    """runs of the part `result`"""
    out: Path = Path("benchmark")
    """the figures go to OUT.json, their tables to OUT.md"""


def flops(model: Model, work: Work, batch: int) -> int:
    """Floating-point operations of a step, two for a multiply-add of convolutions and matrices.

    Training adds the gradients by kernel and by input, of which conv1 has none.
    """
    rows = functional.describe(model)
    passes = {row.layer: 1 if work == "infer" else 2 if row is rows[0] else 3 for row in rows}
    return 2 * batch * sum(passes[row.layer] * row.multiply_adds for row in rows)


def task_config(name: str, batch: int) -> Config:
    """The preset as it is timed. Raises BadInput where its network has no twins."""
    config = command_line.named_config(name)
    model = config.model
    if not isinstance(model, ModelConfig | TutorialConfig):
        raise BadInput(
            f"{name} is one of the CIFAR-10 networks, which the other programs have not; give another preset"
        )
    if not getattr(model, "columns_meet", True) or model.activation != "relu" or model.pool.kind != "max":
        raise BadInput(f"{name} has not columns that meet, ReLU and max pooling, as the other programs' networks have")
    # Activations of a fresh network are near 1 here. The printed alphas would hide a wrong window from the losses; the
    # time that a norm takes does not depend on them.
    model = replace(model, lrn=replace(model.lrn, alpha=0.05))
    if isinstance(model, ModelConfig):
        model = replace(model, map_norm=replace(model.map_norm, alpha=0.05))
    # At such a rate the loss falls visibly in three steps, and rounding does not grow yet.
    rate = (0.1 if config.optim.rule == "adam" else 1.0) / functional.describe(model)[-1].kernel[0]
    return replace(config, model=model, optim=replace(config.optim, rate=rate, batch=batch))


def write_task(directory: Path, config: Config, work: Work, precision: Precision, threads: int) -> None:
    """What every contestant is given, in files that any Python reads.

    task.json    {"config", "rule", "momentum", "rates": {"conv1/kernel": ..}, "decays": {..}, "work", "precision",
                 "threads"}
    params.npz   "conv1/kernel" [H, W, in, out], "fc6/kernel" [in, out], "conv1/bias" ..: this package's layout
    batch.npz    "images" float32 [B, H, W, C], "labels" int32 [B]
    """
    optim, rng = config.optim, np.random.default_rng(0)
    first = rates(optim, 0.0, progress.Progress())
    params, rates_, decays = {}, {}, {}
    for layer, shapes in jax.eval_shape(lambda: functional.init(config.model, jax.random.key(0))).items():
        for kind, array in shapes.items():
            name = f"{layer}/{kind}"
            std = 0.1 if kind == "bias" else math.sqrt(2 / math.prod(array.shape[:-1]))  # keeps a ReLU's spread
            params[name] = rng.normal(0, std, array.shape).astype(np.float32)
            rates_[name] = rate_of(optim, first, layer, kind)
            decays[name] = decay_of(optim, layer, kind) or 0.0
    size, channels = config.model.image_size, config.model.channels
    images = rng.normal(size=(optim.batch, size, size, channels)).astype(np.float32)
    labels = rng.integers(config.model.classes, size=optim.batch).astype(np.int32)
    task = {
        "config": dataclasses.asdict(config),
        "rule": optim.rule,
        "momentum": optim.momentum,
        "rates": rates_,
        "decays": decays,
        "work": work,
        "precision": precision,
        "threads": threads,
    }
    (directory / "task.json").write_text(json.dumps(task))
    np.savez(directory / "params.npz", **params)
    np.savez(directory / "batch.npz", images=images, labels=labels)


def version_in(python: str, library: str) -> str | None:
    """The library's version in that Python, None where there is none."""
    code = f"from importlib.metadata import version; print(version({library!r}))"
    isolated = "-P" if python == sys.executable else "-I"
    try:
        command = [python, isolated, "-c", code]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def enter_all(match: Match, options: Options, directory: Path, config: Config, work: Work) -> None:
    """Everybody who is asked for; who cannot take part is among `match.skipped`."""

    # What `command_line.keep_memory` does for our commands.
    kept = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_ARENA_MAX": "1"}

    def enter(
        name: str,
        role: str,
        *arguments: str,
        python: str = sys.executable,
        devices: int = 1,
        memory: dict[str, str] | None = None,
    ) -> None:
        # On a GPU, others need memory, too.
        environment = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "JAX_NUM_CPU_DEVICES": str(devices)} | (memory or {})
        match.enter(name, ROLES / f"{role}.py", *arguments, python=python, environment=environment)

    enter(MACHINE, "machine", options.precision)
    if "ours" in options.only:
        for python in (sys.executable, *options.also_python):
            for devices in range(1, config.model.columns + 1):
                name = f"alexnet_jax 1,{devices}, JAX {version_in(python, 'jax')}"
                enter(name, "ours", str(directory), f"1,{devices}", python=python, devices=devices, memory=kept)
    if "plain" in options.only:
        enter(PLAIN, "plain_jax", str(directory))
    if "pytorch" in options.only:
        for layout in "NCHW", "NHWC":
            for mode in "eager", "compiled":
                enter(f"PyTorch {layout} {mode}", "pytorch", str(directory), layout, mode, python=options.torch_python)
        # Not what PyTorch does by itself, so no candidate for its best; it shows how much the setting makes.
        name = f"PyTorch NHWC compiled{KEPT}"
        enter(name, "pytorch", str(directory), "NHWC", "compiled", python=options.torch_python, memory=kept)
    if "onnxruntime" in options.only and work == "infer":
        if options.precision == "float32":
            enter(ONNX, "onnx_runtime", str(directory))
        else:
            match.skipped[ONNX] = f"its graph is in float32, not in {options.precision}"


def disagreement(losses: list[float], ours: list[float], tolerance: float) -> str | None:
    """Why a contestant is struck out, if it is."""
    if all(abs(theirs - mine) <= tolerance * ours[0] for theirs, mine in zip(losses, ours, strict=True)):
        return None
    return f"struck out: its losses are {_listed(losses)}, ours {_listed(ours)}"


def _listed(losses: list[float]) -> str:
    return ", ".join(f"{loss:.5g}" for loss in losses)


def play(match: Match, options: Options, tick: Callable[[], None]) -> dict[str, list[float]]:
    """The check, the practice and the rounds. Returns the losses of the check."""
    answers = match.play(check=True)
    tick()
    if answers.pop(MACHINE, {"device": "cpu"})["device"] != "cpu" and ONNX in answers:
        match.strike(ONNX, "it runs on the processor, the others do not")
    losses = {name: answer["losses"] for name, answer in answers.items()}
    reference = next(iter(losses), "")
    for name in match.answers.keys() & losses.keys():
        reason = disagreement(losses[name], losses[reference], AGREE[options.precision])
        if reason:
            match.strike(name, reason)
    for number in range(options.rounds + 1):
        answers = match.play(seconds=options.seconds)
        tick()
        if number:
            match.count(answers)
    return losses


def figures(values: list[float]) -> dict[str, Any]:
    return {"median": median(values), "least": min(values), "greatest": max(values), "rounds": values}


def cell(options: Options, name: str, work: Work, batch: int, tick: Callable[[], None]) -> dict[str, Any]:
    """One network, one kind of work, one size of batches: everybody's figures."""
    config = task_config(name, batch)
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
        plain = PLAIN if who.endswith(f"JAX {jax.__version__}") else ""  # the same JAX
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
        "versions": match.versions,
    }


def parse_options() -> Options:
    options = command_line.parse(Options)
    if min(options.rounds, options.seeds, *options.batches) < 1 or options.seconds <= 0:
        raise BadInput("--rounds, --seeds and --batches are at least 1, --seconds more than 0")
    for name in options.presets:
        task_config(name, 1)
    versions = [jax.__version__]
    for python in options.also_python:
        versions.append(version_in(python, "jax") or "")
        if not versions[-1]:
            raise BadInput(f"--also-python {python} is no Python that has JAX")
        if versions[-1] in versions[:-1]:
            raise BadInput(f"--also-python {python} has JAX {versions[-1]}, which another has, too; leave it out")
    if not options.out.absolute().parent.is_dir():
        raise BadInput(f"--out {options.out} is in no directory that is there; make {options.out.parent} first")
    return options


class Report:
    """Everything that is known so far, in OUT.json and OUT.md."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self.saved = False
        self.found: dict[str, Any] = {
            "command": shlex.join(["python", "-m", "alexnet_jax.benchmark", *sys.argv[1:]]),
            "date": time.strftime("%Y-%m-%d"),
            "processor": processor(),
            "cores": cores(),
            "versions": {},
            "speed": [],
        }

    def save(self) -> None:
        self._out.with_name(self._out.name + ".json").write_text(json.dumps(self.found, indent=1) + "\n")
        self._out.with_name(self._out.name + ".md").write_text(tables.report(self.found))
        self.saved = True


def measure(options: Options, report: Report, show: Progress) -> None:
    """Everything that was asked for, saved as it comes."""
    cells = [(name, work, batch) for name in options.presets for work in options.work for batch in options.batches]
    torch_python = options.torch_python if version_in(options.torch_python, "torch") else None
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
        report.found["versions"] |= found.pop("versions")
        report.found["speed"].append(found)
        report.save()
    if set(options.parts) == {"speed"}:
        return
    if not torch_python:
        report.found["without_torch"] = f"{options.torch_python} has no PyTorch; give --torch-python"
    with tempfile.TemporaryDirectory() as name:
        twins = Path(name)
        fashion = preset("fashion")
        write_task(twins, fashion, "train", "float32", report.found["cores"])
        whole_runs.write_pictures(twins, fashion)
        if "startup" in options.parts:
            show.update(bar, description="start-up")
            report.found["startup"] = whole_runs.start_up(options.rounds, torch_python, twins, tick)
            report.save()
        if "result" in options.parts:
            show.update(bar, description=f"until an error of {options.target:g}")
            times = whole_runs.time_to_result(options.target, options.seeds, torch_python, twins, tick)
            report.found["result"] = {"target": options.target, "times": times}
            report.save()


def benchmark() -> None:
    jax.config.update("jax_platforms", "cpu")  # of this process: accelerators are the contestants'
    options = parse_options()
    report = Report(options.out)
    parts = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    try:
        with Progress(*parts, console=Console(stderr=True, highlight=False)) as show:
            measure(options, report, show)
    except KeyboardInterrupt:
        kept = f"what was measured before is in {options.out}.json" if report.saved else "nothing was measured yet"
        print(f"Interrupted; {kept}.", file=sys.stderr)
        sys.exit(128 + signal.SIGINT)
    print(tables.report(report.found))


if __name__ == "__main__":
    command_line.main(benchmark)
