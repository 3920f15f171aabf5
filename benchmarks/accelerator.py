"""What this package does on the accelerator at hand: whether its numbers are right, how fast it is, what limits it.

    PYTHONPATH=src python3 benchmarks/accelerator.py [--minutes 8] [--json accelerator.json] [--tiny]

It needs only jax, flax, optax and NumPy; where there is PyTorch, it also compares. The most important parts come first.
The JSON is written after each figure, so nothing is lost when time is up. What was not reached is listed there.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from alexnet_jax.config import Config, ModelConfig, Precision
from alexnet_jax.config.presets import preset
from alexnet_jax.data import augment
from alexnet_jax.data.views import augmentation, test_views
from alexnet_jax.networks import columns, functional
from alexnet_jax.training.digest import digests
from alexnet_jax.training.optimiser import rates
from alexnet_jax.training.progress import Progress
from alexnet_jax.training.step import make_train_step, new_state
from contestants import machine
from contestants.computed import computed, furthest
from contestants.layer_times import layer_times
from contestants.task import AGREE, Work, flops, task_config, write_task
from contestants.turns import Match, markdown, processor, ratios, versions

ROLES = Path(__file__).parent / "contestants"
IMAGENET, EPOCHS = 1_281_167, 90
"""training images, and how often the paper shows each"""
READ_BY_A_CORE = 2_850
"""raw records of 256 x 256 pixels per second: benchmarks/README.md, Preparing and reading images"""


def tiny_network() -> Config:
    """`fashion` with an eighth of its kernels."""
    fashion, model = preset("fashion"), preset("fashion").model
    assert isinstance(model, ModelConfig)
    narrow: Any = {name: replace(conv, kernels=conv.kernels // 8) for name, conv in model.convs.items()}
    few: Any = {name: replace(getattr(model, name), units=64) for name in ("fc6", "fc7")}
    return replace(fashion, model=replace(model, **narrow, **few))


def network(name: str) -> Config:
    return tiny_network() if name == "tiny" else preset(name)


@dataclass(frozen=True)
class Case:
    """What is timed: the whole training step with its augmentation, or inference on the central crop."""

    preset: str
    work: Work
    precision: Precision
    batch: int
    mesh: tuple[int, int] = (1, 1)

    def __str__(self) -> str:
        mesh = "" if self.mesh == (1, 1) else f", mesh {self.mesh[0]},{self.mesh[1]}"
        return f"{self.preset}, {self.work}, {self.precision}, batch {self.batch:,}{mesh}"

    @property
    def config(self) -> Config:
        config = network(self.preset)
        return replace(config, optim=replace(config.optim, batch=self.batch))


@dataclass(frozen=True)
class Plan:
    """What is measured, most important first. The first case is also profiled, fed from the host and repeated."""

    exact: tuple[tuple[str, int], ...]
    """networks and batches whose numbers are compared with those in float64"""
    cases: tuple[tuple[Case, ...], ...]
    """the cases of a group are compiled at the same time"""
    beside: tuple[str, ...]
    """the forms of PyTorch that compete in the first case and in inference"""
    seconds: float
    """for which each case is timed"""
    tiny: bool = False
    """for a CPU: every part is tried, and no figure means anything"""


def full() -> Plan:
    def cases(works: tuple[Work, ...], precisions: tuple[Precision, ...], names: str, *batches: int) -> Iterator[Case]:
        for name in names.split():
            for work in works:
                for batch in batches:
                    for precision in precisions:
                        yield Case(name, work, precision, batch)

    every: tuple[Precision, ...] = ("bfloat16", "tf32", "float32")
    devices = jax.device_count()
    both: tuple[Work, ...] = ("train", "infer")
    several = [
        Case("cuda_convnet", "train", "bfloat16", 1024 * devices, mesh)
        for mesh in ((devices, 1), (devices // 2, 2))
        if devices > 1 and devices % 2 == 0
    ]
    return Plan(
        exact=(("cuda_convnet", 8), ("fashion", 32)),
        cases=(
            tuple(cases(("train",), ("bfloat16",), "cuda_convnet", 1024)),
            (*cases(("infer",), ("bfloat16",), "cuda_convnet", 4096, 1024), *several),
            tuple(cases(("train",), ("tf32", "float32"), "cuda_convnet", 1024)),
            tuple(cases(both, ("bfloat16",), "one_weird_trick caffe", 1024)),
            tuple(cases(("train",), ("bfloat16",), "cuda_convnet", 128, 256, 512, 2048)),
            tuple(cases(("infer",), ("tf32", "float32"), "cuda_convnet", 4096)),
            tuple(cases(both, ("tf32", "float32"), "one_weird_trick caffe", 1024)),
            tuple(cases(("train",), ("tf32", "float32"), "cuda_convnet", 128, 512)),
            tuple(cases(both, every, "one_weird_trick caffe", 128, 256)),
            tuple(cases(("infer",), every, "cuda_convnet", 128, 512)),
        ),
        beside=("NHWC compiled", "NHWC eager"),
        seconds=1.0,
    )


def tiny() -> Plan:
    """The same parts on a CPU, in two minutes."""
    first = Case("tiny", "train", "bfloat16", 32)
    meshes = [(jax.device_count(), 1)] if jax.device_count() > 1 else []
    return Plan(
        exact=(("tiny", 8),),
        cases=(
            (first,),
            (replace(first, work="infer"), replace(first, precision="float32")),
            tuple(replace(first, mesh=mesh) for mesh in meshes),
        ),
        beside=("NHWC eager",),
        seconds=0.1,
        tiny=True,
    )


# ------------------------------------------------------------------------------------------------------ the report


class Report:
    """The figures as they come: printed, and written to a file after each."""

    def __init__(self, path: Path, minutes: float) -> None:
        self._path, self._began, self._minutes = path, time.monotonic(), minutes
        self.figures: dict[str, Any] = {}

    def left(self) -> float:
        """Seconds until time is up."""
        return self._minutes * 60 - (time.monotonic() - self._began)

    def add(self, part: str, said: str, **figures: Any) -> None:
        """Adds one entry to the list of a part."""
        self.figures.setdefault(part, []).append(figures)
        self.say(f"{part}: {said}")
        self._write()

    def put(self, part: str, figures: Any) -> None:
        """Sets a part that has one entry."""
        self.figures[part] = figures
        self._write()

    def fail(self, name: str, error: Exception) -> None:
        """Notes what failed and why: the first line of the message."""
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:300]}"
        self.put("failed", self.figures.get("failed", {}) | {name: reason})
        self.say(f"failed: {name}: {reason}")

    def say(self, text: str) -> None:
        print(f"[{max(0, self.left()):4.0f} s left] {text}", flush=True)

    def _write(self) -> None:
        unfinished = self._path.with_name(self._path.name + ".part")
        unfinished.write_text(json.dumps(self.figures, indent=1) + "\n")
        unfinished.replace(self._path)


# ------------------------------------------------------------------------------------------------- compiled programs


class Program:
    """A case, compiled, with images and parameters on the device."""

    def __init__(self, case: Case, options: dict[str, Any] | None = None) -> None:
        self.case, config, rng = case, case.config, np.random.default_rng(0)
        model, self.mesh = config.model, columns.make_mesh(*case.mesh)
        # ImageNet is stored at 256 x 256.
        side = 256 if model.image_size > 200 else model.image_size
        self.host_images = rng.integers(0, 256, (case.batch, side, side, model.channels), np.uint8)
        self.host_labels = rng.integers(model.classes, size=case.batch).astype(np.int32)
        mean = rng.uniform(0, 255, (side, side, model.channels)).astype(np.float32)
        of_colours = np.eye(model.channels, dtype=np.float32)
        statistics = augment.Statistics(mean, 50 * np.ones(model.channels, np.float32), of_colours)
        forward = functional.forward(model, self.mesh, case.precision)
        key = jax.random.key(0)

        def create() -> Any:
            return new_state(functional.init(model, key), config.optim)

        state = jax.jit(create, out_shardings=columns.shardings(jax.eval_shape(create), self.mesh))()
        step: Any
        if case.work == "train":
            self.state = state
            self.rest: tuple[Any, ...] = (key, rates(config.optim, 0.0, Progress()), jnp.float32(1))
            step = make_train_step(forward, augmentation(config, statistics, self.mesh), config.optim)
        else:
            self.state, self.rest = state.params, ()
            view = test_views(config, statistics, self.mesh)
            step = jax.jit(lambda params, images, _: jax.nn.softmax(forward(params, view(images, jnp.int32(0)))))
        self.images, self.labels = self.put(self.host_images, self.host_labels)
        began = time.perf_counter()
        self.jitted = step
        lowered = step.lower(self.state, self.images, self.labels, *self.rest)
        self.compiled = lowered.compile(compiler_options=options)
        self.compile_seconds = time.perf_counter() - began

    def put(self, images: np.ndarray, labels: np.ndarray) -> tuple[Any, Any]:
        """A batch on the device, as `fit` puts it there."""
        there = columns.shard_batch({"image": images, "label": labels}, self.mesh, len(images))
        return there["image"], there["label"]

    def run(self, images: Any = None, labels: Any = None) -> Any:
        """One step, on the batch that lies on the device or on another one. Returns something to wait for."""
        there = (self.images, self.labels) if images is None else (images, labels)
        out = self.compiled(self.state, *there, *self.rest)
        if self.case.work == "infer":
            return out
        self.state, metrics = out
        return metrics

    def memory(self) -> int:
        """Bytes on each device: parameters, batch, results and everything in between."""
        sizes = self.compiled.memory_analysis()
        kept = sizes.argument_size_in_bytes + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
        return int(kept + sizes.temp_size_in_bytes)

    def bytes_accessed(self) -> float:
        """What the compiler expects its operations to read and write in one step, on each device."""
        analysis = self.compiled.cost_analysis()
        return float((analysis[0] if isinstance(analysis, list) else analysis).get("bytes accessed", 0.0))


def seconds_per_step(run: Callable[[], Any], seconds: float, rounds: int = 5) -> list[float]:
    """Of each round, after a warm-up. Steps are dispatched together and waited for once a round."""

    def time_of(steps: int) -> float:
        began = time.perf_counter()
        for _ in range(steps):
            last = run()
        jax.block_until_ready(last)
        return (time.perf_counter() - began) / steps

    time_of(2)
    steps = max(1, round(seconds / rounds / time_of(2)))
    return [time_of(steps) for _ in range(rounds)]


# ------------------------------------------------------------------------------------------------------ the parts


def device_rates(report: Report, plan: Plan) -> None:
    """How fast the device multiplies large matrices, and reads and writes its memory."""
    for precision in get_args(Precision):
        found = machine.role(precision)(seconds=plan.seconds)
        said = f"{precision} {found['flops'] / 1e12:.1f} TFLOP/s, copying {found['bytes'] / 1e9:.0f} GB/s"
        report.add("rates", said, precision=precision, flops=found["flops"], bytes=found["bytes"])


def correctness(report: Report, plan: Plan) -> None:
    """Logits, gradients and five updates next to float64 on the CPU, for every precision.

    The device should be as near as a CPU is in the same precision; TF32 as near as bfloat16.
    """
    with tempfile.TemporaryDirectory() as home:
        judges: dict[tuple[str, str], subprocess.Popen[bytes]] = {}
        for name, batch in plan.exact:
            directory = Path(home) / name
            directory.mkdir()
            config = task_config(network(name), batch)
            model: Any = replace(config.model, dropout=0.0)  # type: ignore[arg-type]  # other draws in float64
            write_task(directory, replace(config, model=model), "train", "float32", 1)
            for precision in "float64", "float32", "bfloat16":
                script, out = ROLES / "computed.py", directory / f"{precision}.npz"
                command = [sys.executable, "-P", *map(str, (script, directory, out, precision))]
                judges[name, precision] = subprocess.Popen(command, env=os.environ | environment())
        devices = jax.device_count()
        meshes = [(1, 1)] + ([(devices // 2, 2)] if devices % 2 == 0 else [])
        wanted = [
            (name, precision, mesh) for name, _ in plan.exact for precision in get_args(Precision) for mesh in meshes
        ]

        def compute(name: str, precision: Precision, mesh: tuple[int, int]) -> dict[str, np.ndarray]:
            return computed(str(Path(home) / name), precision, columns.make_mesh(*mesh))

        with ThreadPoolExecutor(workers()) as threads:
            found = dict(zip(wanted, threads.map(lambda each: compute(*each), wanted), strict=True))
        for (name, precision), process in judges.items():
            if process.wait():
                raise RuntimeError(f"computed.py failed for {name} in {precision}")
        for name, _ in plan.exact:
            kinds = ("float64", "float32", "bfloat16")
            exact, single, rough = (dict(np.load(Path(home) / name / f"{kind}.npz")) for kind in kinds)
            for precision, mesh in ((precision, mesh) for of, precision, mesh in wanted if of == name):
                here, cpu = found[name, precision, mesh], rough if precision == "bfloat16" else single
                rows = {}
                for what in "logits", "gradient", "update":
                    distance, where = furthest(here, exact, what)
                    on_cpu = furthest(cpu, exact, what)[0]
                    allowed = furthest(rough, exact, what)[0] if precision == "tf32" else on_cpu
                    rows[what] = {
                        "distance": distance,
                        "where": where,
                        "on_cpu": on_cpu,
                        "near": distance <= 2 * allowed,
                    }
                said = ", ".join(
                    f"{what} {row['distance']:.1e} (CPU {row['on_cpu']:.1e})" for what, row in rows.items()
                )
                report.add(
                    "correctness",
                    f"{name}, {precision}, {mesh}: {said}",
                    preset=name,
                    precision=precision,
                    mesh=mesh,
                    **rows,
                )


def environment() -> dict[str, str]:
    """For child processes: our modules."""
    return {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def workers() -> int:
    return max(1, min(8, (os.cpu_count() or 1) - 1))


def speed(report: Report, plan: Plan, group: tuple[Case, ...]) -> None:
    """Images per second of the cases of one group, compiled at the same time and timed one after another."""

    def compiled(case: Case) -> Program | Exception:
        try:
            return Program(case)
        except Exception as error:
            return error

    with ThreadPoolExecutor(workers()) as threads:
        programs = list(threads.map(compiled, group))
    for case, program in zip(group, programs, strict=True):
        try:
            if isinstance(program, Exception):
                raise program
            measure(report, plan, program)
        except Exception as error:  # often: not enough memory
            report.fail(str(case), error)


def measure(report: Report, plan: Plan, program: Program) -> None:
    case = program.case
    each = median(seconds_per_step(program.run, plan.seconds))
    devices = case.mesh[0] * case.mesh[1]
    rate = next(rate for rate in report.figures["rates"] if rate["precision"] == case.precision)
    figures = {
        "images_per_second": case.batch / each,
        "matmul_share": flops(case.config.model, case.work, case.batch) / each / devices / rate["flops"],
        "bandwidth_share": program.bytes_accessed() / each / rate["bytes"],
        "bytes_per_device": program.memory(),
        "compile_seconds": program.compile_seconds,
    }
    said = (
        f"{case}: {figures['images_per_second']:,.0f} images/s, {figures['matmul_share']:.0%} of the matmul rate, "
        f"{figures['bytes_per_device'] / 1e9:.1f} GB, compiled in {program.compile_seconds:.1f} s"
    )
    report.add("speed", said, **asdict(case), **figures)


def profile(report: Report, plan: Plan) -> None:
    """Where the time of the first case goes: by layer, and the dearest operations."""
    # As a whole graph, a GPU's operations would have no names.
    graphs = {} if jax.default_backend() == "cpu" else {"xla_gpu_enable_command_buffer": ""}
    program = Program(plan.cases[0][0], graphs)
    jax.block_until_ready(program.run())
    text, steps = program.compiled.as_text(), 5
    times = layer_times(text, lambda: jax.block_until_ready(program.run()), steps)
    sources = {line.split(" = ")[0].strip().removeprefix("ROOT ").lstrip("%"): line for line in text.splitlines()}
    layers = {name: ns / steps / 1e6 for name, ns in times.layers.most_common()}
    figures = {
        "case": str(program.case),
        "milliseconds": layers,
        "operations": [
            {"name": name, "milliseconds": ns / steps / 1e6, "program": sources.get(name, "").strip()[:600]}
            for name, ns in times.operations.most_common(40)
        ],
    }
    report.put("profile", figures)
    report.say(", ".join(f"{name} {ms:.2f} ms" for name, ms in layers.items()))


def beside_pytorch(report: Report, plan: Plan) -> None:
    """The first case and inference next to PyTorch, in turns, on images already cropped."""
    if importlib.util.find_spec("torch") is None:
        report.say("there is no PyTorch to compare with")
        return
    first = plan.cases[0][0]
    config = task_config(first.config, first.batch)
    works: tuple[Work, ...] = ("train", "infer")
    with tempfile.TemporaryDirectory() as home:
        directories = {work: Path(home) / work for work in works}
        for work, directory in directories.items():
            directory.mkdir()
            write_task(directory, config, work, first.precision, 1)

        def entered(work: Work, *forms: str) -> Match:
            match, directory = Match(), str(directories[work])
            match.enter("ours", ROLES / "ours.py", directory, "1,1", environment=environment())
            for form in forms:
                more = {"TORCHINDUCTOR_COMPILE_THREADS": str(workers())}
                match.enter(form, ROLES / "pytorch.py", directory, *form.split(), environment=environment() | more)
            return match

        # The same loss, without compiling more than once. The tests compare training steps too.
        with entered("infer", "NHWC eager") as match:
            losses = {name: answer["losses"][0] for name, answer in match.play(check=True).items()}
        if len(losses) < 2 or abs(np.subtract(*losses.values())) > AGREE[first.precision] * losses["ours"]:
            raise RuntimeError(f"PyTorch does not compute the same: {losses or match.skipped}")
        for work in works:
            if report.left() < 45 and not plan.tiny:
                report.say(f"no time is left to compare {work} with PyTorch")
                continue
            with entered(work, *plan.beside) as match:
                match.play(seconds=0.0)
                for _ in range(3):
                    match.count(match.play(seconds=plan.seconds))
            rate = {
                name: [first.batch * answer["steps"] / answer["seconds"] for answer in answers]
                for name, answers in match.answers.items()
            }
            best = max((name for name in rate if name != "ours"), key=lambda name: median(rate[name]), default="")
            over = ratios(rate, "ours", best)
            said = ", ".join(f"{name} {median(of):,.0f}" for name, of in rate.items())
            report.add(
                "beside PyTorch",
                f"{work}: images/s {said}; ours over its best {median(over) if over else float('nan'):.2f}",
                work=work,
                precision=first.precision,
                batch=first.batch,
                images_per_second=rate,
                best=best,
                over_best=over,
                losses=losses,
                skipped=match.skipped,
            )


def feeding(report: Report, plan: Plan) -> None:
    """Does the step wait for its images?"""
    program = Program(plan.cases[0][0])
    fed = from_host(program)
    resident, sent, put = [], [], []
    for _ in range(3):
        resident += seconds_per_step(program.run, plan.seconds / 3, 1)
        sent += seconds_per_step(fed, plan.seconds / 3, 1)
        put += seconds_per_step(lambda: program.put(program.host_images, program.host_labels), plan.seconds / 3, 1)
    batch = program.case.batch
    figures = {
        "images_per_second_resident": batch / median(resident),
        "images_per_second_from_host": batch / median(sent),
        "images_per_second_put_alone": batch / median(put),
        "bytes_per_second": program.host_images.nbytes / median(put),
        "cores_that_read_records": batch / median(resident) / READ_BY_A_CORE,
    }
    report.put("feeding", {"case": str(program.case)} | figures)
    report.say(
        f"feeding: {figures['images_per_second_from_host']:,.0f} images/s from the host, "
        f"{figures['images_per_second_resident']:,.0f} with the batch on the device, "
        f"sending alone {figures['images_per_second_put_alone']:,.0f} ({figures['bytes_per_second'] / 1e9:.1f} GB/s)"
    )


def on_the_device(report: Report, plan: Plan) -> None:
    """`fashion` with all 60,000 images on the device: one step per call, and many steps per call."""
    for batch in (64,) if plan.tiny else (64, 1024):
        program = Program(Case("tiny" if plan.tiny else "fashion", "train", "float32", batch))
        images = 2_000 if plan.tiny else 60_000
        many = 2 if plan.tiny else 50  # on a CPU, convolutions in a loop are slow
        there = jnp.zeros((images, *program.host_images.shape[1:]), jnp.uint8), jnp.zeros(images, jnp.int32)
        order = jnp.arange(many * batch, dtype=jnp.int32).reshape(many, batch) % images
        found = {
            "one step": batch / median(seconds_per_step(among(program, there, order[0], 1), plan.seconds / 2, 3)),
            f"{many} steps": many
            * batch
            / median(seconds_per_step(among(program, there, order, many), plan.seconds / 2, 3)),
            "one step, the batch from the host": batch
            / median(seconds_per_step(from_host(program), plan.seconds / 2, 3)),
        }
        said = ", ".join(f"{name} {rate:,.0f}" for name, rate in found.items())
        report.add("on the device", f"fashion, batch {batch}, images/s: {said}", batch=batch, images_per_second=found)


def among(program: Program, there: tuple[Any, Any], chosen: Any, steps: int) -> Callable[[], Any]:
    """A call of one or several steps on batches chosen among the images and labels that lie on the device."""

    def one(state: Any, chosen: Any) -> Any:
        state, metrics = program.jitted(state, *(array[chosen] for array in there), *program.rest)
        return state, metrics["loss"]

    def several(state: Any, chosen: Any) -> Any:
        return one(state, chosen) if steps == 1 else jax.lax.scan(one, state, chosen)

    compiled, state = jax.jit(several, donate_argnums=0), jax.tree.map(jnp.copy, program.state)

    def run() -> Any:
        nonlocal state
        state, losses = compiled(state, chosen)
        return losses

    return run


def from_host(program: Program) -> Callable[[], Any]:
    """A call of one step whose images come from the host's memory as `fit` sends them: put, then step."""
    batches = [(program.host_images.copy(), program.host_labels) for _ in range(4)]
    turns = iter(range(10**9))
    return lambda: program.run(*program.put(*batches[next(turns) % len(batches)]))


def after_ten_steps(tiny: bool) -> str:
    """The digests of all parameters after ten steps of the first case."""
    program = Program(plan_of(tiny).cases[0][0])
    for _ in range(10):
        program.run()
    return " ".join(digests(program.state.params).values())


def repeated(report: Report, plan: Plan) -> None:
    """Whether two processes end with the same bits, without and with XLA's flags for that."""
    for name, flags in (
        ("as it is", ""),
        ("deterministic", functional.DETERMINISTIC),
    ):
        if plan.tiny and flags:
            continue  # which mean nothing to a CPU
        variables = environment() | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()}
        command = [sys.executable, "-c", f"import accelerator; print(accelerator.after_ten_steps({plan.tiny}))"]
        children = [
            subprocess.Popen(command, env=os.environ | variables, cwd=ROLES.parent, stdout=subprocess.PIPE, text=True)
            for _ in range(2)
        ]
        digests = [child.communicate()[0].strip() for child in children]
        same = len(set(digests)) == 1 and bool(digests[0])
        report.add(
            "repeated", f"{name}: {'the same bits' if same else 'other bits'}", flags=flags, same=same, digests=digests
        )


def imagenet(report: Report, plan: Plan) -> None:
    """Hours for 90 epochs of ImageNet, and what limits them."""
    fed = report.figures["feeding"]
    step, host = fed["images_per_second_resident"], fed["images_per_second_from_host"]
    hours = {
        "if the batch were on the device": EPOCHS * IMAGENET / step / 3600,
        "from the host's memory": EPOCHS * IMAGENET / host / 3600,
    }
    slowest = "the step" if host > 0.95 * step else "sending images to the device"
    report.put("imagenet", {"case": fed["case"], "hours": hours, "limit": slowest})
    said = ", ".join(f"{value:.1f} hours {name}" for name, value in hours.items())
    report.say(f"90 epochs of ImageNet, {fed['case']}: {said}. What limits it is {slowest}.")


# -------------------------------------------------------------------------------------------------------- the whole


def plan_of(tiny_: bool) -> Plan:
    return tiny() if tiny_ else full()


def tables(figures: dict[str, Any]) -> str:
    """The speeds as Markdown."""
    rows = [
        [
            f"`{row['preset']}`, {row['work']}",
            row["precision"],
            f"{row['batch']:,}" + ("" if tuple(row["mesh"]) == (1, 1) else f" on {row['mesh'][0]},{row['mesh'][1]}"),
            f"{row['images_per_second']:,.0f}",
            f"{row['matmul_share']:.0%}",
            f"{row['bandwidth_share']:.0%}",
            f"{row['bytes_per_device'] / 1e9:.1f} GB",
            f"{row['compile_seconds']:.1f} s",
        ]
        for row in figures.get("speed", [])
    ]
    return markdown(
        ["", "precision", "batch", "images/s", "of matmul rate", "of copy rate", "memory", "compiling"], rows
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8.0, help="time for all of it (default: 8)")
    parser.add_argument("--json", type=Path, default=Path("accelerator.json"), help="file for the figures")
    parser.add_argument("--tiny", action="store_true", help="the same parts with small networks, for a CPU")
    options = parser.parse_args()
    if not options.json.parent.is_dir():
        parser.error(f"--json {options.json}: there is no directory {options.json.parent}")
    if options.minutes <= 0:
        parser.error(f"--minutes {options.minutes:g}: give more than 0")
    # The other processes need memory on the device, too.
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    plan, report = plan_of(options.tiny), Report(options.json, options.minutes)
    device = jax.devices()[0]
    report.put(
        "machine",
        {
            "device": device.device_kind,
            "devices": jax.device_count(),
            "memory": (device.memory_stats() or {}).get("bytes_limit"),
            "processor": processor(),
            "versions": versions(),
            "date": time.strftime("%Y-%m-%d"),
            "command": " ".join(["benchmarks/accelerator.py", *sys.argv[1:]]),
        },
    )
    report.say(f"{jax.device_count()} x {device.device_kind}, JAX {jax.__version__}")

    def of_group(n: int) -> Callable[[Report, Plan], None]:
        return lambda report, plan: speed(report, plan, plan.cases[n])

    groups = [(f"speed, group {n + 1}", of_group(n), 30) for n in range(len(plan.cases))]
    parts: list[tuple[str, Callable[[Report, Plan], None], float]] = [
        ("rates", device_rates, 0),
        ("correctness", correctness, 30),
        *groups[:2],
        ("feeding", feeding, 20),
        ("imagenet", imagenet, 0),
        ("beside PyTorch", beside_pytorch, 100),
        ("profile", profile, 20),
        *groups[2:4],
        ("repeated", repeated, 60),
        ("on the device", on_the_device, 30),
        *groups[4:],
    ]
    for name, part, needs in parts:
        if report.left() < (1 if options.tiny else needs):
            report.put("not reached", [*report.figures.get("not reached", []), name])
            continue
        try:
            part(report, plan)
        except Exception as error:  # one part that fails must not cost the others
            report.fail(name, error)
    print(tables(report.figures))
    if "failed" in report.figures:
        sys.exit(1)


if __name__ == "__main__":
    main()
