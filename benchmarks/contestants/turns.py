"""Programs that are timed against each other take turns, round by round, each in a process of its own.

While one contestant runs, the others are suspended with all their worker processes. That keeps them from working ahead
and spreads changes in machine speed evenly. A contestant may run in another Python, which needs nothing from this
package: this file is run there by its path, with the path of the contestant's file as its argument, and imports only
the standard library.
"""

import importlib.metadata
import importlib.util
import json
import os
import platform
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

LIBRARIES = (
    *("alexnet-jax", "array-record", "flax", "grain", "jax", "jaxlib", "numpy", "onnxruntime"),
    *("opencv-python-headless", "pillow", "simplejpeg", "torch", "torchvision"),
)

# --------------------------------------------------------------------------------------- in a contestant's process


def serve(file: str, *arguments: str) -> None:
    """Answers each line of JSON with a line of JSON, by calling what the file's `role(*arguments)` returns."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of libraries must not mix with the answers

    def say(**answer: Any) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    # Roles import each other and this module as `contestants.NAME`. At the end of the path it shadows no library.
    sys.path.append(str(Path(__file__).parents[1]))
    try:
        spec = importlib.util.spec_from_file_location("role", file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        turn = module.role(*arguments)
        say()  # ready
        for line in sys.stdin:
            say(**turn(**json.loads(line)))
    except Exception as error:
        say(error=f"{type(error).__name__}: {error}")


def versions() -> dict[str, str]:
    """The versions of this Python and of those LIBRARIES that it has."""
    found = {dist.name.lower().replace("_", "-"): dist.version for dist in importlib.metadata.distributions()}
    return {"Python": platform.python_version()} | {name: found[name] for name in LIBRARIES if name in found}


class Worker:
    """Answers for a network in training or inference: what it computes and where, then how fast.

    `place` is "cpu" or "gpu". `losses()` returns the losses for the check. The timed work is `state = step(state)`,
    starting from `fresh()`; `settle(state)` waits until it is done.
    """

    def __init__(
        self,
        place: str,
        losses: Callable[[], list[float]],
        fresh: Callable[[], Any],
        step: Callable[[Any], Any],
        settle: Callable[[Any], object],
    ) -> None:
        self._place = place
        self._losses, self._fresh, self._step, self._settle = losses, fresh, step, settle
        self._state: Any = None
        self._of_one = 0.0

    def __call__(self, check: bool = False, seconds: float = 0.0) -> dict[str, Any]:
        """For a check {"losses", "place"}; otherwise {"steps", "seconds"} over about `seconds`, and at least one step.

        Training steps are dispatched together and waited for once, at the end. So their number is chosen in advance,
        from the time of earlier steps.
        """
        if check:
            return {"losses": self._losses(), "place": self._place}
        if not self._of_one:
            self._state = self._fresh()
            self._time(1)  # compiles
        if self._of_one < seconds:
            self._time(1)  # wakes its threads and refills the caches after the other contestants' turns
        steps = max(1, round(seconds / self._of_one))
        self._time(steps)
        return {"steps": steps, "seconds": steps * self._of_one}

    def _time(self, steps: int) -> None:
        began = time.perf_counter()
        for _ in range(steps):
            self._state = self._step(self._state)
        self._settle(self._state)
        self._of_one = (time.perf_counter() - began) / steps


# ------------------------------------------------------------------------------------------- in the parent process

PATIENCE = 1800.0
"""how many seconds an answer may take, compilation included"""
NO_ANSWER = f"it did not answer within {PATIENCE / 60:g} minutes"


class Out(Exception):
    """The reason why a contestant cannot take part."""


def isolated(python: str) -> list[str]:
    """Starts that Python without this directory on its path; another Python also ignores our PYTHONPATH."""
    return [python, "-P" if python == sys.executable else "-I"]


@cache
def versions_in(python: str) -> dict[str, str]:
    """`versions()` of that Python, asked once. Empty if it cannot be run."""
    try:
        ended = subprocess.run([*isolated(python), __file__], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return {}
    found: dict[str, str] = json.loads(ended.stdout)
    return found


def last_words(errors: str) -> str:
    """The last line on standard error that is not part of a stack trace, or an empty string."""
    words = [line for line in errors.splitlines() if line.strip() and not line.startswith((" ", "***"))]
    return words[-1] if words else ""


class Contestant:
    """A process that waits for its turn. Raises Out if it cannot start."""

    def __init__(self, file: Path, *arguments: str, python: str, environment: dict[str, str]) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process)
        try:
            # A process group of its own, to suspend it; in our session, so that the system ends it if we are killed.
            self._process = subprocess.Popen(
                [*isolated(python), __file__, str(file), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                process_group=0,
                env=os.environ | environment,
            )
        except OSError as error:
            raise Out(f"{python} cannot be run: {error.strerror}") from None
        self._answer()

    def turn(self, **question: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        os.killpg(self._process.pid, signal.SIGCONT)
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has exited; reading its answer will tell
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        try:
            there, _, _ = select.select([self._process.stdout], [], [], PATIENCE)
            line = self._process.stdout.readline() if there else ""
        except KeyboardInterrupt:
            self.end()
            raise
        try:
            answer = json.loads(line) if line else {"error": self._last_words() if there else NO_ANSWER}
        except ValueError:
            answer = {"error": f"its answer was not JSON: {line.strip()!r}"}
        if "error" in answer:
            self.end()
            raise Out(" ".join(answer["error"].split())[:300])
        os.killpg(self._process.pid, signal.SIGSTOP)
        # If we are killed, the system ends a process that has stopped, but not one that is only about to stop.
        os.waitpid(self._process.pid, os.WUNTRACED)
        return answer

    def _last_words(self) -> str:
        self._errors.seek(0)
        words = last_words(self._errors.read().decode(errors="replace"))
        return f"it exited with the message {words!r}" if words else "it exited without a message"

    def end(self) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


class Match:
    """The contestants by name, their answers, and why some do not take part."""

    def __init__(self) -> None:
        self._there: dict[str, Contestant] = {}
        self._rounds = 0
        self.answers: dict[str, list[dict[str, Any]]] = {}
        self.skipped: dict[str, str] = {}

    def __enter__(self) -> "Match":
        return self

    def __exit__(self, *_: object) -> None:
        for contestant in self._there.values():
            contestant.end()

    def enter(
        self,
        name: str,
        file: Path,
        *arguments: str,
        python: str = sys.executable,
        environment: dict[str, str] | None = None,
    ) -> None:
        """Adds a contestant, which runs what the file's `role(*arguments)` returns."""
        assert name not in self._there, f"two contestants have the name {name}"
        try:
            self._there[name] = Contestant(file, *arguments, python=python, environment=environment or {})
        except Out as reason:
            self.skipped[name] = str(reason)
        else:
            self.answers[name] = []

    def play(self, **question: Any) -> dict[str, dict[str, Any]]:
        """Plays one round and returns each contestant's answer. A contestant that fails is dropped."""
        names, answers = list(self._there), {}
        start = self._rounds % len(names) if names else 0
        self._rounds += 1
        for name in names[start:] + names[:start]:
            try:
                answers[name] = self._there[name].turn(**question)
            except Out as reason:
                self.drop(name, str(reason))
        return answers

    def count(self, answers: dict[str, dict[str, Any]]) -> None:
        """Counts a round that was not a warm-up."""
        for name, answer in answers.items():
            self.answers[name].append(answer)

    def drop(self, name: str, reason: str) -> None:
        self._there.pop(name).end()
        del self.answers[name]
        self.skipped[name] = reason


def spread(values: list[float], digits: int = 0) -> str:
    """Median (minimum to maximum)."""
    least, middle, greatest = (f"{value:,.{digits}f}" for value in (min(values), median(values), max(values)))
    return f"{middle} ({least} to {greatest})"


def ratios(figures: dict[str, list[float]], name: str, base: str) -> list[float]:
    """The ratio in each round; empty if the base did not take part."""
    if base not in figures or name == base:
        return []
    return [ours / theirs for ours, theirs in zip(figures[name], figures[base], strict=True)]


def markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = (header, ["---"] * len(header), *rows)
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def processor() -> str:
    """The name of the machine's processor."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return (names or [platform.machine()])[0]


if __name__ == "__main__":
    if sys.argv[1:]:
        serve(*sys.argv[1:])
    else:
        print(json.dumps(versions()))
