"""What all commands share: the compilation cache, memory, devices, options and errors."""

import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jax
import pytest
from conftest import CACHE, run_command

from alexnet_jax.command_line import keep_compiled, main, named_config, sizes_of
from alexnet_jax.config import BadInput, preset, to_json


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """The home directory of a user who has configured nothing."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    jax.config.update("jax_compilation_cache_dir", None)
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", CACHE.name)


def cache_directory() -> str | None:
    keep_compiled()
    return jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]


def test_compiled_programs_are_kept_in_the_users_cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_directory() == str(home / ".cache" / "alexnet_jax" / "xla")
    assert os.stat(home / ".cache" / "alexnet_jax" / "xla").st_mode & 0o077 == 0, "programs in it are executed"
    assert cache_directory() == str(home / ".cache" / "alexnet_jax" / "xla"), "a second call changes nothing"
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "elsewhere"))
    assert cache_directory() == str(home / "elsewhere" / "alexnet_jax" / "xla")
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache_directory() == str(home / "Library" / "Caches" / "alexnet_jax" / "xla")


def test_without_a_writable_directory_there_is_no_cache_and_no_message(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (home / ".cache").write_text("in the way")
    assert cache_directory() is None
    monkeypatch.setenv("HOME", str(home / ".cache"))
    assert cache_directory() is None
    monkeypatch.setenv("XDG_CACHE_HOME", "~nobody-of-this-name/cache")
    assert cache_directory() is None
    assert capfd.readouterr() == ("", "")


def test_a_command_compiles_nothing_twice(tiny_file: Path, tiny_data: Path, tmp_path: Path) -> None:
    """The second run finds step, validation and initial weights in the cache, and computes the same numbers."""

    def ended(run: Path) -> list[str]:
        end = run_command("train", tiny_file, "--data", tiny_data, "--workdir", run, "--steps", 6, "--seed", 7)
        assert (end.code, end.err) == (0, "")
        return [line for line in end.out.splitlines() if "validation" in line]

    first = ended(tmp_path / "first")
    there = set(os.listdir(CACHE.name))
    assert {name.split("-")[0] for name in there} >= {"jit_step", "jit_of_view", "jit_create"}
    assert ended(tmp_path / "second") == first != []
    assert set(os.listdir(CACHE.name)) == there


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's own setting")
def test_a_process_reuses_the_memory_that_it_frees() -> None:
    """Each time that 64 MiB are allocated and freed costs 16,000 page faults without the setting."""
    code = """
import resource, sys
from alexnet_jax.command_line import keep_memory
if sys.argv[1] == "kept":
    keep_memory()
def touch():
    bytes(64 << 20).count(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
touch(), touch()
print(touch() - touch())
"""
    faults = {
        how: -int(subprocess.run([sys.executable, "-c", code, how], capture_output=True, text=True, check=True).stdout)
        for how in ("kept", "not kept")
    }
    assert faults["kept"] < 100 < faults["not kept"]


@pytest.mark.parametrize("text", ["2", "2,2,2", "two,2", "2,-1", "", "2,"])
def test_mesh_takes_two_sizes(text: str) -> None:
    assert sizes_of("4, 2") == (4, 2)
    with pytest.raises(BadInput, match=f"--mesh {text} is not D,C"):
        sizes_of(text)


def test_xlas_flag_for_cpu_devices_takes_precedence() -> None:
    code = """
import jax
from alexnet_jax.command_line import make_cpu_devices
make_cpu_devices("4,1")
print(jax.device_count())
"""
    bare = {name: value for name, value in os.environ.items() if name != "JAX_NUM_CPU_DEVICES"}
    for flags, count in (("--xla_force_host_platform_device_count=3", "3"), ("", "4")):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=bare | {"XLA_FLAGS": flags}
        )
        assert done.stdout.strip() == count, done.stderr


def test_only_an_os_error_about_a_file_is_bad_input(capsys: pytest.CaptureFixture[str]) -> None:
    def raises(error: OSError) -> None:
        raise error

    with pytest.raises(SystemExit):
        main(lambda: raises(OSError(28, "No space left on device", "metrics.jsonl")))
    assert capsys.readouterr().err == "error: metrics.jsonl: No space left on device\n"
    with pytest.raises(OSError, match="a bug"):
        main(lambda: raises(OSError("a bug")))


def test_a_run_directory_names_its_config_but_never_hides_a_preset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fashion = preset("fashion")
    other = replace(fashion, seed=3)
    for name in ("fashion", "mine"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(to_json(other))
    assert named_config("mine") == other
    assert named_config("fashion") == fashion
