"""Results as JSON lines: one line a run, in files that can be committed and joined.

The lines of several machines become one set of results when their files are put into one folder, or are concatenated.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from alexnet_jax.config import BadInput, Config, to_json

FILE = "results.jsonl"


class Key(NamedTuple):
    """What a result is a result of."""

    experiment: str
    seed: int
    preset: str
    data: str
    steps: int


@dataclass(frozen=True)
class Result:
    """One run, measured. Errors are fractions."""

    experiment: str
    seed: int
    preset: str
    data: str
    """the beginning of the data's fingerprint, which is the same on every machine"""
    steps: int
    config: str
    """the beginning of the SHA-256 of the config without its seed: a result of an earlier definition is noticed"""
    top1_error: float
    """of the validation images, with ten crops"""
    top5_error: float
    loss: float
    one_crop_top1_error: float
    one_crop_top5_error: float
    train_error: float
    """top-1 error of the first 10,000 training images, with one crop and without augmentation or dropout"""
    seconds: float
    versions: dict[str, str]
    device: str

    @property
    def key(self) -> Key:
        return Key(self.experiment, self.seed, self.preset, self.data, self.steps)


def digest(config: Config) -> str:
    return hashlib.sha256(to_json(replace(config, seed=0)).encode()).hexdigest()[:16]


Line = TypeVar("Line")


def read(folder: Path, kind: type[Line]) -> list[Line]:
    """The lines of all .jsonl files of a folder, as dataclasses of a kind.

    A last line that a crash cut off does not count. Raises BadInput.
    """
    found = []
    for path in sorted(folder.glob("*.jsonl")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(keepends=True), 1):
            if line.endswith("\n") and line.strip():
                found.append(_line(line, kind, f"{path}:{number}"))
    return found


def _line(line: str, kind: type[Line], where: str) -> Line:
    try:
        return kind(**json.loads(line))
    except (ValueError, TypeError) as error:
        raise BadInput(f"{where} is not a result of python -m alexnet_jax.ablate: {error}; remove the line") from None


def append(folder: Path, result: Any) -> None:
    """Adds a dataclass as a line. One that a crash cut off is removed first."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    before = path.read_bytes() if path.exists() else b""
    with path.open("ab") as file:
        file.truncate(before.rfind(b"\n") + 1)
        file.write(f"{json.dumps(asdict(result))}\n".encode())


class Known(NamedTuple):
    """What is measured already of the runs that are asked for."""

    results: dict[Key, Result]
    """the first line of each run"""
    stale: list[Result]
    """lines of runs that are measured only by another definition of the experiment or the base"""


def known(found: Sequence[Result], digests: dict[Key, str]) -> Known:
    """Which of these results are of the runs asked for; `digests` has each run and the digest of its config."""
    results: dict[Key, Result] = {}
    stale = []
    for result in found:
        if digests.get(result.key) == result.config:
            results.setdefault(result.key, result)
        elif result.key in digests:
            stale.append(result)
    return Known(results, [result for result in stale if result.key not in results])
