"""Checkpoints by Orbax: `latest`, to continue from, and `best` by validation error. Each restores on any layout.

    RUN/checkpoints/latest/STEP/{params,moments,statistics,about}
    RUN/checkpoints/best/STEP/...

A checkpoint is self-contained: besides the arrays it holds the config, a description of the data and the progress of
the run. Weights from other programs are stored as a step 0 without moments.
"""

import dataclasses
import json
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.sharding import Mesh, SingleDeviceSharding
from orbax.checkpoint.checkpoint_managers import ContinuousCheckpointingPolicy

from alexnet_jax.config import BadInput, Config, check_local, from_json, to_json
from alexnet_jax.networks import columns, functional
from alexnet_jax.training.digest import digests
from alexnet_jax.training.progress import Progress
from alexnet_jax.training.step import State

LATEST, BEST = "latest", "best"


@dataclass(frozen=True)
class Checkpoint:
    """One checkpoint on the disk."""

    path: Path
    config: Config
    data: dict[str, Any]
    """the data directory's path (None for the embedded one), fingerprint, image shape and class names; for weights from
    other programs path and fingerprint are None, and `source` names their file"""
    progress: dict[str, Any]
    """the state of the run besides its arrays"""
    digests: dict[str, dict[str, str]]
    """of "params", "moments" and "statistics"; empty in a checkpoint of an earlier version"""

    @property
    def step(self) -> int:
        return int(self.path.name)

    def params(self, mesh: Mesh | None = None, layout: columns.Layout = "columns") -> Any:
        """The parameters, on one device or laid over a mesh."""
        if "init" in self.own:  # only the file knows their shapes
            with self._reading(), ocp.StandardCheckpointer() as reader:
                shapes = reader.metadata(self.path / "params").item_metadata.tree
        else:
            shapes = jax.eval_shape(partial(functional.init, self.config.model), jax.random.key(0))
        if mesh is None:
            here = SingleDeviceSharding(jax.local_devices()[0])
            places = jax.tree.map(lambda _: here, shapes)
        elif "init" in self.own:
            places = columns.everywhere(shapes, mesh)
        else:
            columns.place(self.config.model, mesh, layout)
            places = columns.shardings(shapes, mesh, layout)
        return self._restore("params", shapes, places)

    def state(self, shapes: State, layout: State) -> State:
        """The state of the training step, with these shapes and this layout."""
        step = columns.lay(jnp.int32(self.step), layout.step)
        restored = (self._restore(name, getattr(shapes, name), getattr(layout, name)) for name in ("params", "moments"))
        return State(step, *restored)

    @property
    def own(self) -> dict[str, str]:
        """The parts of the run that are the user's own code, with their names."""
        return dict(self.config.own)

    def check_network(self) -> None:
        """Raises BadInput if the network is the user's own, which only their code can run."""
        if "forward" in self.own:
            raise BadInput(
                f"{self.path} holds a network that is not in this package, {self.own['forward']}; "
                f"evaluate it from Python: alexnet_jax.evaluate(..., forward={self.own['forward']})"
            )

    def statistics(self) -> dict[str, Any]:
        """Statistics of the images it was trained on, as `Writer` was given them."""
        return self._restore("statistics")

    def _restore(self, item: str, shapes: Any = None, layout: Any = None) -> Any:
        target = None
        if shapes is not None:
            target = jax.tree.map(lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), shapes, layout)
        with self._reading(), ocp.StandardCheckpointer() as reader:
            restored = reader.restore(self.path / item, target)
        saved = self.digests.get(item)
        changed = [name for name, digest in digests(restored).items() if saved.get(name) != digest] if saved else []
        if changed:
            raise Damaged(f"the checkpoint {self.path} is damaged: {item}/{changed[0]} is not what was saved")
        return restored

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Orbax and TensorStore raise many kinds for a damaged file
            raise Damaged(_unreadable(self.path, error)) from error


class Damaged(BadInput):
    """A checkpoint cannot be read, or it is not what was saved."""


def _unreadable(path: Path, error: Exception) -> str:
    reason = str(error).strip().splitlines()
    return f"the checkpoint {path} cannot be read ({type(error).__name__}: {reason[0][:200] if reason else ''})"


def find(path: str | Path) -> Checkpoint:
    """The checkpoint at `path`: a run directory (its latest), checkpoints/latest or best, or a checkpoint itself.

    Raises BadInput if there is none or it cannot be read.
    """
    check_local(path)
    place = Path(path).absolute()
    if not place.is_dir():
        raise BadInput(f"there is no run or checkpoint {path}")
    if (place / "checkpoints").is_dir():
        place = place / "checkpoints" / LATEST
    if (place / "about").is_dir():
        return read(place)
    steps = _steps(place)
    if not steps:
        raise BadInput(f"{path} holds no checkpoint; give a run directory made by python -m alexnet_jax.train")
    return read(steps[0])


def newest_first(run: Path) -> list[Path]:
    """The checkpoints that a run can continue from."""
    return _steps(run.absolute() / "checkpoints" / LATEST)


def _steps(directory: Path) -> list[Path]:
    """The checkpoints in a directory, the newest first; none if there is no such directory."""
    found = [child for child in directory.iterdir() if child.name.isdigit()] if directory.is_dir() else []
    return sorted(found, key=lambda child: int(child.name), reverse=True)


def set_aside(place: Path) -> None:
    """Moves a damaged checkpoint out of the way, to checkpoints/damaged."""
    aside = place.parents[1] / "damaged"
    aside.mkdir(exist_ok=True)
    place.rename(aside / f"{place.name}-{time.time_ns()}")


def read(place: Path) -> Checkpoint:
    """The checkpoint in this directory. Raises Damaged."""
    try:
        about = json.loads((place / "about" / "metadata").read_text())
        config, data, progress = from_json(json.dumps(about["config"])), about["data"], about["progress"]
        _ = [data[part] for part in ("path", "fingerprint", "image_shape", "classes")]
        if progress:  # weights of another program have none
            Progress.from_json(progress)
        return Checkpoint(place, config, data, progress, about.get("digests", {}))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(_unreadable(place, error)) from error


def load(
    path: str | Path, mesh: Mesh | None = None, *, layout: columns.Layout = "columns"
) -> tuple[Config, functional.Params]:
    """(config, params) of a run directory (its latest checkpoint) or of a checkpoint, on one device or on a mesh.

    params: {"conv1": {"kernel", "bias"}, ...}, float32, with the shapes that `init` gives them. layout: as for
    `shard`. Raises BadInput if there is no checkpoint, it cannot be read, or it does not fit the mesh.

    >>> config, params = alexnet.load("runs/one")
    >>> alexnet.forward(config.model)(params, jnp.zeros((1, 28, 28, 1))).shape
    (1, 10)
    """
    found = find(path)
    return found.config, found.params(mesh, layout)


def write_weights(run: Path, config: Config, data: dict[str, Any], statistics: dict[str, Any], params: Any) -> None:
    """Makes a run directory that holds weights from another program as its step 0."""
    with ocp.CheckpointManager(run.absolute() / "checkpoints" / LATEST) as manager:
        save = ocp.args.StandardSave
        sums = {"params": digests(params), "statistics": digests(statistics)}
        about = {"config": dataclasses.asdict(config), "data": data, "progress": {}, "digests": sums}
        items = ocp.args.Composite(params=save(params), statistics=save(statistics), about=ocp.args.JsonSave(about))
        manager.save(0, args=items)
    (run / "config.json").write_text(to_json(config))


class Writer:
    """Writes a run's checkpoints in the background."""

    def __init__(
        self, run: Path, config: Config, data: dict[str, Any], statistics: dict[str, Any], minutes: float
    ) -> None:
        self._about = {"config": dataclasses.asdict(config), "data": data}
        self._statistics = statistics
        self._asked_for = False  # several processes agree on it first, and save a step later
        every = ContinuousCheckpointingPolicy(minimum_interval_secs=round(60 * minutes))
        self._latest = self._manager(run, LATEST, max_to_keep=2, save_decision_policy=every)
        # With one manager for both, keeping the best could delete the latest.
        self._best = self._manager(run, BEST, max_to_keep=1)

    @staticmethod
    def _manager(run: Path, kind: str, **options: Any) -> ocp.CheckpointManager:
        path = run.absolute() / "checkpoints" / kind
        options |= {"cleanup_tmp_directories": True}  # which a killed run may have left
        return ocp.CheckpointManager(path, options=ocp.CheckpointManagerOptions(**options))

    def due(self, step: int) -> bool:
        """Whether it is time to save another `latest`. Says so once."""
        due = not self._asked_for and self._latest.should_save(step)
        self._asked_for = self._asked_for or due
        return due

    def save_latest(self, state: State, step: int, progress: dict[str, Any]) -> None:
        self._asked_for = False
        self._best.wait_until_finished()  # `progress` may refer to it
        if step not in self._latest.all_steps():
            self._save(self._latest, state, step, progress)

    def save_best(self, state: State, step: int, progress: dict[str, Any]) -> None:
        # A run that continued from an earlier step reaches its best again, and Orbax rejects a step it already has.
        if step > (self._best.latest_step() or 0):
            self._save(self._best, state, step, progress)

    def _save(self, manager: ocp.CheckpointManager, state: State, step: int, progress: dict[str, Any]) -> None:
        items = {"params": state.params, "moments": state.moments, "statistics": self._statistics}
        about = self._about | {"progress": progress, "digests": {name: digests(tree) for name, tree in items.items()}}
        manager.save(
            step,
            args=ocp.args.Composite(
                **{name: ocp.args.StandardSave(tree) for name, tree in items.items()},
                about=ocp.args.JsonSave(about),
            ),
            force=True,
        )

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Waits for pending writes and raises their errors, such as a full disk."""
        if isinstance(error, jax.errors.JaxRuntimeError) and jax.process_count() > 1:
            return  # the other processes, for which it would wait, may have ended
        with closing(self._best):
            self._latest.close()
