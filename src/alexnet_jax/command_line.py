"""Shared by all commands: typed options, one sentence for bad input, and devices to run on."""

import contextlib
import ctypes
import io
import math
import os
import platform
import re
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, make_dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypeVar

import jax
import tyro
from jax.sharding import Mesh

from alexnet_jax.config import (
    PRESETS,
    BadInput,
    Config,
    DataConfig,
    Model,
    ModelConfig,
    OptimConfig,
    Precision,
    names_in,
    preset,
    read_config,
)
from alexnet_jax.networks import columns
from alexnet_jax.networks.functional import DETERMINISTIC
from alexnet_jax.training import processes

Options = TypeVar("Options")


@dataclass(frozen=True)
class Recipe:
    """The options that define a network, its training and its data."""

    config: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="[CONFIG]")] = "fashion"
    """a preset, a run directory, or a Python file that defines CONFIG"""
    directory: Annotated[Path | None, tyro.conf.arg(name="data", metavar="DIR")] = None
    """prepared images; by default 12,000 of Fashion-MNIST"""
    seed: int = 0
    """of every random draw"""
    precision: Precision = "float32"
    """of the layers' arithmetic; parameters stay float32"""
    model: tyro.conf.FlagConversionOff[Model] = ModelConfig()
    optim: tyro.conf.FlagConversionOff[OptimConfig] = OptimConfig()
    data: tyro.conf.FlagConversionOff[DataConfig] = DataConfig()


@dataclass(frozen=True)
class Cluster:
    """The options of a command that several processes run together."""

    coordinator: Annotated[str | None, tyro.conf.arg(metavar="HOST:PORT")] = None
    """where process 0 listens, if there are several processes"""
    processes: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """how many there are"""
    process: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None
    """the number of this one, from 0"""
    distributed: bool = False
    """join the processes that SLURM, Open MPI, Kubernetes or Cloud TPU has started, in place of the three above"""
    wait: float = 300.0
    """seconds to wait for the other processes"""


CONFIG_FIELDS = ("seed", "precision", "model", "optim", "data")

_FIELDS = """

Every field of the config is an option, too: --model.dropout 0, --model.activation gelu, --optim.rate 0.02,
--optim.epochs 5, --data.flip False. --help-all lists them with what they mean, and the options for several processes.
"""

RecipeOptions = TypeVar("RecipeOptions", bound=Recipe)


def main(command: Callable[[], None]) -> None:
    """Runs a command; bad input ends it with one sentence on standard error and exit code 2."""
    keep_compiled()
    try:
        command()
        sys.stdout.flush()
    except BadInput as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except jax.errors.JaxRuntimeError as error:
        if not jax.distributed.is_initialized():
            raise
        processes.lost(error)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:  # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still buffered
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        if error.filename is None:
            raise
        print(f"error: {error.filename}: {error.strerror}", file=sys.stderr)
        sys.exit(2)


def parse(
    kind: type[Options],
    default: Options | None = None,
    arguments: list[str] | None = None,
    about: str | None = None,
    program: str | None = None,
) -> Options:
    """The options of a command as the dataclass `kind`. Raises BadInput if they cannot be parsed.

    about: the description shown by --help; by default the docstring of `kind`.
    program: the program's name in --help; by default `python -m alexnet_jax.NAME`.
    """
    message = io.StringIO()
    try:
        with contextlib.redirect_stderr(message):
            parsed: Options = tyro.cli(  # type: ignore[assignment]  # None is tyro's own default
                kind,
                default=default,
                args=arguments,
                prog=program or f"python -m alexnet_jax.{command_name()}",
                description=about or kind.__doc__,
                config=(tyro.conf.AvoidSubcommands,),
            )
            return parsed
    except SystemExit as end:
        if end.code == 0:
            raise
        raise BadInput(f"{_sentence(message.getvalue())}; see --help") from None


def command_name() -> str:
    """The name of the running command."""
    return Path(sys.argv[0]).stem


def parse_recipe(kind: type[RecipeOptions]) -> tuple[RecipeOptions, Config]:
    """The options, whose defaults come from the config named first, and the resulting config.

    `--help` shows the options people use most, `--help-all` every field of the config as well.
    """
    name = sys.argv[1] if sys.argv[1:] and not sys.argv[1].startswith("-") else Recipe.config
    base = named_config(name)
    given = {field: getattr(base, field) for field in CONFIG_FIELDS}
    if "--help-all" in sys.argv:
        parse(kind, kind(name, **given), ["--help"])
    elif {"-h", "--help"}.intersection(sys.argv):
        several: list[str] = [field.name for field in fields(Cluster)] if issubclass(kind, Cluster) else []
        hidden = [(part, tyro.conf.Suppress[Any]) for part in ("model", "optim", "data", *several)]  # type: ignore[misc]
        short = make_dataclass("Options", hidden, bases=(kind,), frozen=True)
        parse(short, short(name, **given), ["--help"], f"{kind.__doc__}{_FIELDS}")
    options = parse(kind, kind(name, **given))
    if options.config != name:
        raise BadInput(f"give the config first: python -m alexnet_jax.{command_name()} {options.config} ...")
    return options, replace(base, **{field: getattr(options, field) for field in CONFIG_FIELDS})


def _sentence(message: str) -> str:
    """Tyro's message without its frame and help."""
    sections = [""]
    for line in message.splitlines():
        if re.match(r"[╭╰]|[\s│]*[─-]{10}", line):
            sections.append("")
        else:
            sections[-1] += " " + line.strip(" │")
    said = [" ".join(section.split()) for section in sections if section.strip()]
    if not message.startswith("╭"):  # without frames the title is a section of its own
        said = said[1:]
    meant = re.search(r"Perhaps you meant: (--\S+)", " ".join(said))
    return said[0].rstrip(".") + (f"; perhaps you meant {meant[1]}" if meant else "")


def named_config(name: str) -> Config:
    """The preset of that name, the config of that run directory, or CONFIG of that Python file. Raises BadInput."""
    written = Path(name) / "config.json"
    if name not in PRESETS and written.is_file():  # in runs/, the run fashion must not hide the preset
        return read_config(written)
    if not name.endswith(".py"):
        try:
            return preset(name)
        except BadInput as error:
            raise BadInput(f"{error}; or give a run directory, or a file ending in .py") from None
    config = names_in(name).get("CONFIG")
    if not isinstance(config, Config):
        raise BadInput(f"{name} does not define CONFIG, an alexnet_jax Config")
    return config


def make_cpu_devices(mesh: str = "auto") -> None:
    """Makes as many CPU devices as `--mesh` asks for, so that exchanges are real on a machine without accelerators.

    "auto" makes two. Several processes make their share each, or one each if JAX found them by itself. Must run before
    a device is first used. JAX_NUM_CPU_DEVICES and XLA_FLAGS take precedence.
    """
    asked: int = jax.config.jax_num_cpu_devices  # type: ignore[attr-defined]
    if asked < 0 and "host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        count = 2 if mesh == "auto" else math.prod(sizes_of(mesh))
        together = 1 if not jax.distributed.is_initialized() else int(given("--processes", str(count)))
        jax.config.update("jax_num_cpu_devices", max(1, count // together))


def join_processes() -> None:
    """Joins the other processes that run this command, if its options say that there are any.

    Must run before a device is first used. Raises BadInput.
    """
    given_three = [given(f"--{name}", "") for name in ("coordinator", "processes", "process")]
    wait = given("--wait", str(Cluster.wait))
    if not wait.replace(".", "", 1).isdigit():
        raise BadInput(f"--wait {wait} is not a number of seconds")
    if "--distributed" in sys.argv:
        if any(given_three):
            raise BadInput("--distributed finds the processes by itself; leave out --coordinator and the others")
        processes.start(None, None, None, float(wait))
    elif any(given_three):
        address, count, number = given_three
        if not (":" in address and count.isdigit() and number.isdigit()):
            raise BadInput("several processes need all of --coordinator HOST:PORT, --processes and --process")
        processes.start(address, int(count), int(number), float(wait))


def be_deterministic() -> None:
    """Lets GPUs compute the same bits every time. Must run before a device is first used. CPUs do so in any case.

    Flags that the user has set in XLA_FLAGS stay, and take precedence.
    """
    os.environ["XLA_FLAGS"] = f"{DETERMINISTIC} {os.environ.get('XLA_FLAGS', '')}".strip()


def keep_compiled() -> None:
    """Lets JAX keep compiled programs in the user's cache directory, so that the next start need not compile them.

    JAX_COMPILATION_CACHE_DIR names another directory and JAX_ENABLE_COMPILATION_CACHE=false turns the cache off. If the
    directory cannot be written, there is no cache.
    """
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # many small programs add up
    if jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        return
    caches = "~/Library/Caches" if sys.platform == "darwin" else os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        directory = Path(caches).expanduser() / "alexnet_jax" / "xla"
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)  # its contents are executed
    except (OSError, RuntimeError):  # a file is in the way, it cannot be written, there is no home
        return
    there = directory.stat()
    if there.st_uid == os.getuid() and not there.st_mode & 0o022 and os.access(directory, os.W_OK | os.X_OK):
        jax.config.update("jax_compilation_cache_dir", str(directory))


def keep_memory() -> None:
    """Lets the process keep the memory that a step frees and use it for the next step.

    On a CPU XLA allocates a step's working memory anew each time, and glibc takes large blocks from the system and
    returns them. For `cuda_convnet` with a batch of 32 that is 190,000 page faults and a tenth of the step's time. Here
    all blocks come from one heap that does not shrink. Must run before a device is first used. Does nothing without
    glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, mmap_max, arena_max = -1, -4, -8  # malloc.h
    for parameter, value in ((trim_threshold, -1), (mmap_max, 0), (arena_max, 1)):
        ctypes.CDLL(None).mallopt(parameter, value)


def given(option: str, default: str) -> str:
    """The value of an option on the command line, before it is parsed."""
    for before, argument in pairwise(["", *sys.argv[1:]]):
        if before == option:
            return argument
        if argument.startswith(f"{option}="):
            return argument.partition("=")[2]
    return default


def mesh_of(text: str, config: Config, layout: columns.Layout) -> Mesh:
    """The mesh of `--mesh D,C`; for "auto", the one that suits the machine. Raises BadInput if the layout cannot be."""
    mesh = columns.suitable_mesh(config.model.columns, layout) if text == "auto" else columns.make_mesh(*sizes_of(text))
    columns.place(config.model, mesh, layout)
    return mesh


def sizes_of(text: str) -> tuple[int, int]:
    """D and C of `--mesh D,C`. Raises BadInput."""
    sizes = text.split(",")
    if len(sizes) != 2 or not all(size.strip().isdigit() for size in sizes):
        raise BadInput(f"--mesh {text} is not D,C, the sizes of the data and the column axis, as in --mesh 1,2")
    return int(sizes[0]), int(sizes[1])
