"""Data sets as they are distributed: every form of a set gives the same images, and damage is named."""

import gzip
import io
import json
import lzma
import os
import pickle
import random
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image
from scipy.io import savemat

from alexnet_jax.config import BadInput
from alexnet_jax.data import sources
from alexnet_jax.data.pictures import Unreadable
from alexnet_jax.data.sources import Picture, Source, devkit, idx, parquet, source, tar

WORDS = {"n01440764": "tench, Tinca tinca", "n02012849": "crane", "n03126707": "crane"}
NAMES = ["tench, Tinca tinca", "crane (n02012849)", "crane (n03126707)"]
Files = dict[str, bytes]


@pytest.fixture
def unpacked(tmp_path: Path) -> Path:
    return tmp_path / "unpacked"


def find(src: Path, unpacked: Path, kind: Any = None, fraction: float | None = None, seed: int = 0) -> Source:
    return sources.find(src, kind, unpacked, fraction, seed)


def refused(src: Path, unpacked: Path, **options: Any) -> str:
    """The sentence that refuses a source."""
    with pytest.raises(BadInput) as caught:
        find(src, unpacked, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def told(source: Source) -> tuple[Any, ...]:
    """Everything about a source except where its bytes are, and the bytes."""
    pictures = {
        split: [(picture.name, picture.label, sources.read(picture)) for picture in of]
        for split, of in source.splits.items()
    }
    return source.classes, source.pixels, pictures


def names(source: Source, split: str) -> list[str]:
    return [picture.name for picture in source.splits[split]]


def put(root: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def photograph(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), (number, 2 * number, 255 - number)).save(buffer, "PNG" if number % 4 == 0 else "JPEG")
    return buffer.getvalue()


def imagenet() -> tuple[Files, Files]:
    """{CLASS/FILE: bytes} for training and validation, not sorted."""
    train = {f"{id}/{id}_{n}.JPEG": photograph(10 * c + n) for c, id in enumerate(WORDS) for n in (10, 9, 2)}
    shown = ["n03126707", "n01440764", "n02012849", "n01440764", "n03126707"]
    validation = {f"{id}/ILSVRC2012_val_{n:08}.JPEG": photograph(100 + n) for n, id in enumerate(shown, 1)}
    return train, validation


def as_folder(root: Path, train: Files, validation: Files) -> Path:
    put(root / "train", train)
    put(root / "val", validation)
    return put(root, {"synset_words.txt": "".join(f"{id} {words}\n" for id, words in WORDS.items()).encode()})


# ---------------------------------------------------------------------------------------------------------- folders


def test_a_folder_is_listed_by_class_and_file_in_any_order_of_the_disk(
    tmp_path: Path, unpacked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, validation = imagenet()
    found = find(as_folder(tmp_path / "src", train, validation), unpacked)
    assert (found.kind, found.classes, found.pixels) == ("folder", NAMES, None)
    assert names(found, "train") == sorted(train)
    assert names(found, "validation") == sorted(validation, key=lambda name: name.split("/")[1])
    assert [picture.label for picture in found.splits["validation"]] == [2, 0, 1, 0, 2]
    assert {picture.name: sources.read(picture) for of in found.splits.values() for picture in of} == train | validation

    scandir = os.scandir

    class Shuffled:
        def __init__(self, folder: Any) -> None:
            with scandir(folder) as entries:
                self.entries = list(entries)
            random.shuffle(self.entries)

        def __enter__(self) -> Iterator[os.DirEntry[str]]:
            return iter(self.entries)

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(os, "scandir", Shuffled)
    assert find(tmp_path / "src", unpacked) == found
    assert not unpacked.exists()


def test_other_files_in_a_folder_are_not_listed(tmp_path: Path, unpacked: Path) -> None:
    src = as_folder(tmp_path / "src", *imagenet())
    found = told(find(src, unpacked))
    beside = {
        "train/.DS_Store": b"",
        "train/notes.txt": b"",
        "train/.git/x.jpg": b"",
        "train/n01440764/._a.JPEG": b"",
        "train/n01440764/list.csv": b"",
        "train/n01440764/.thumbnails/a.png": b"",
        "train/loose.jpg": b"",
        "test/n01440764/1.JPEG": b"",
    }
    put(src, beside)
    assert told(find(src, unpacked)) == found


def test_links_are_followed_but_never_in_a_circle(tmp_path: Path, unpacked: Path) -> None:
    train, validation = imagenet()
    src = as_folder(tmp_path / "src", train, validation)
    elsewhere = put(tmp_path / "elsewhere", {"deep/a.png": photograph(1), "b.png": photograph(2)})
    (src / "train/n01440764/back").symlink_to(src / "train")
    (src / "train/n01440764/more").symlink_to(elsewhere)
    (elsewhere / "round").symlink_to(elsewhere)
    (src / "train/n02012849/c.png").symlink_to(elsewhere / "b.png")
    added = {"n01440764/more/deep/a.png", "n01440764/more/b.png", "n02012849/c.png"}
    assert names(find(src, unpacked), "train") == sorted({*train, *added})


def test_a_broken_link_is_a_picture_that_cannot_be_read(tmp_path: Path, unpacked: Path) -> None:
    src = put(tmp_path / "src", {"train/a/1.png": b"1", "val/a/2.png": b"2"})
    for name, target in {"gone": "no.png", "inside": "1.png/no", "itself": "itself.png"}.items():
        (src / f"train/a/{name}.png").symlink_to(target)
    (src / "train/a/loop").symlink_to("loop")  # without a suffix, like a folder
    (src / "train/loop").symlink_to("loop")
    found = find(src, unpacked)
    assert names(found, "train") == ["a/1.png", "a/gone.png", "a/inside.png", "a/itself.png"]
    reasons = []
    for picture in found.splits["train"][1:]:
        with pytest.raises(Unreadable) as caught:
            sources.read(picture)
        reasons.append(str(caught.value))
    assert reasons == ["there is no such file", "there is no such file", "a link that leads back to itself"]


def test_a_picture_without_permission_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", denied)
    with pytest.raises(Unreadable, match=r"^may not be read: permission denied$"):
        sources.read(Picture("a/1.png", 0, "1.png", 0, -1))


def test_names_and_their_order_are_the_same_in_every_locale(tmp_path: Path, unpacked: Path) -> None:
    files = {
        f"{name}/{file}.png": b"" for name in ("日本", "\U00010348", "\uff21") for file in ("é", "\uff21", *"123456")
    }
    src = put(tmp_path / "src", files)
    (src / "日本" / os.fsdecode(b"\xff.png")).write_bytes(b"")
    program = """import json, pathlib, sys
from alexnet_jax.data import sources
found = sources.find(pathlib.Path(sys.argv[1]), None, pathlib.Path("x"), 0.3, 0)
assert not any(map(sources.read, found.splits["train"]))
named = {split: [picture.name for picture in of] for split, of in found.splits.items()}
print(sys.getfilesystemencoding(), json.dumps([found.classes, named]))"""
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    told = subprocess.run([sys.executable, "-c", program, src], env=locale, check=True, capture_output=True, text=True)
    found = find(src, unpacked, fraction=0.3)
    encoding, _, rest = told.stdout.partition(" ")
    assert encoding == "ascii"
    assert json.loads(rest) == [found.classes, {split: names(found, split) for split in found.splits}]
    assert "日本/\\udcff.png" in names(found, "train") + names(found, "validation")


def test_messages_escape_what_would_control_a_terminal(
    tmp_path: Path, unpacked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    src = put(tmp_path / "src", {"a/1.png": b"", "\x1b[31mEVIL/notes.txt": b""})
    assert "\\x1b[31mEVIL has no images" in refused(src, unpacked)
    parquet_file(tmp_path / "rows/train-0.parquet", {"a\n\x1b[31m": [1]})
    parquet_file(tmp_path / "rows/val-0.parquet", {"a": [1]})
    assert "the columns a\\n\\x1b[31m (int64)" in refused(tmp_path / "rows", unpacked)
    with pytest.raises(BadInput, match=r"in \\x1b\[31mgone cannot be read"):
        sources.read(Picture("a/1.png", 0, "\x1b[31mgone", 0, 1))
    monkeypatch.setattr(source, "track", lambda items, what, **_: what)
    assert str(source.counting([1], "in [red]\x1b[31m")) == "in \\[red]\\x1b[31m"


def test_unprintable_names_are_escaped_and_stay_distinct(tmp_path: Path, unpacked: Path) -> None:
    src = put(tmp_path / "src", {"train/a/x\ty.png": b"1", "train/a/x\\ty.png": b"2", "val/a/1.png": b"3"})
    (src / os.fsdecode(b"train/a/\xff.png")).write_bytes(b"4")
    found = find(src, unpacked)
    assert sorted(names(found, "train")) == ["a/\\udcff.png", "a/x\\ty.png", "a/x\\ty.png (2)"]
    assert sorted(map(sources.read, found.splits["train"])) == [b"1", b"2", b"4"]


def test_a_fraction_of_each_class_is_held_out_by_name_and_seed(tmp_path: Path, unpacked: Path) -> None:
    files = {
        f"{name}/{n:02}.png": photograph(n) for name, count in (("a", 20), ("b", 3), ("c", 1)) for n in range(count)
    }
    src = put(tmp_path / "src", files)
    found = find(src, unpacked)
    counts = [[picture.label for picture in found.splits[split]].count(c) for split in found.splits for c in range(3)]
    assert counts == [18, 2, 1, 2, 1, 0]
    assert {*names(found, "train"), *names(found, "validation")} == set(files)
    elsewhere = find(put(tmp_path / "other", dict(reversed(files.items()))), unpacked)
    assert told(elsewhere) == told(found)
    assert names(elsewhere, "validation") == names(found, "validation")
    assert names(find(src, unpacked, seed=1), "validation") != names(found, "validation")
    # They are not the first in the order that prepare draws.
    shuffled = sorted(
        (name for name in files if name[0] == "a"), key=lambda name: sha256(f"0/{name}".encode()).digest()
    )
    assert {*shuffled[:2]} != {name for name in names(found, "validation") if name[0] == "a"}
    # Every class keeps a training picture.
    assert [name[0] for name in names(find(src, unpacked, fraction=0.99), "train")] == ["a", "b", "c"]


def test_pictures_are_held_out_by_their_names_on_the_disk(tmp_path: Path, unpacked: Path) -> None:
    """So a set drawn by an earlier version is drawn again. Latin-1 names, and two that look alike when escaped."""
    files = [b"%d\xe9.png" % n for n in range(10)] + [b"%d\t.png" % n for n in range(10)]
    files += [name.replace(b"\t", b"\\t") for name in files[10:]]
    (tmp_path / "src/a").mkdir(parents=True)
    for name in files:
        (tmp_path / "src/a" / os.fsdecode(name)).write_bytes(name)
    found = find(tmp_path / "src", unpacked, fraction=0.5)
    drawn = sorted(files, key=lambda name: sha256(b"held out/0/a/" + name).digest())
    assert sorted(map(sources.read, found.splits["validation"])) == sorted(drawn[:15])
    assert sorted(map(sources.read, found.splits["train"])) == sorted(drawn[15:])
    shown = names(found, "train") + names(found, "validation")
    assert 0 < sum(name.endswith(" (2)") for name in shown) < 10  # distinct in a split, not between the two


def test_held_out_pictures_take_the_place_of_the_validation_pictures_of_every_source(
    tmp_path: Path, unpacked: Path
) -> None:
    many = {f"{id}/{n}.JPEG": photograph(20 * c + n) for c, id in enumerate(WORDS) for n in range(12)}
    _, validation = imagenet()
    idx_set = idx_files(PICTURES_NHW, 0, ("train", "t10k"), "-", True)
    same = [as_folder(tmp_path / "folder", many, validation), as_tars(tmp_path / "tars", many, validation)]
    others = [as_parquet(tmp_path / "rows"), put(tmp_path / "idx", idx_set), put(tmp_path / "cifar", cifar(False)[0])]
    for src in (*same, *others):
        whole, found = find(src, unpacked), find(src, unpacked, fraction=0.25)
        assert (found.kind, found.classes, found.pixels) == (whole.kind, whole.classes, whole.pixels)
        assert (whole.left_out, found.left_out) == (0, len(whole.splits["validation"]))
        assert set(found.splits["train"]).isdisjoint(found.splits["validation"])
        assert {*found.splits["train"], *found.splits["validation"]} == set(whole.splits["train"])
        for label in range(len(whole.classes)):
            of, held = (
                [picture.label for picture in pictures].count(label)
                for pictures in (whole.splits["train"], found.splits["validation"])
            )
            assert held == (min(max(1, round(0.25 * of)), of - 1) if of else 0)
        kept = set(found.splits["train"])
        assert found.splits["train"] == [picture for picture in whole.splits["train"] if picture in kept]
        held_out = names(found, "validation")
        assert held_out == sorted(held_out, key=lambda name: (name.partition("/")[2], name))
        assert held_out != names(find(src, unpacked, fraction=0.25, seed=1), "validation")
    folder, tars = (told(find(src, unpacked, fraction=0.25)) for src in same)
    assert folder == tars
    alone = find(same[0] / "train", unpacked, fraction=0.25)
    assert told(alone)[2] == folder[2]
    assert alone.left_out == 0


def test_pictures_of_the_same_name_are_not_held_out_together(tmp_path: Path, unpacked: Path) -> None:
    rows = [(b"%02d" % n, "image.png") for n in range(40)]
    for split in ("train", "val"):
        parquet_file(tmp_path / f"src/{split}-0.parquet", {"image": structs(*rows), "label": [0] * 40})
    held_out = [
        int(sources.read(picture)) for picture in find(tmp_path / "src", unpacked, fraction=0.5).splits["validation"]
    ]
    assert len(held_out) == 20
    assert 3 < sum(n < 20 for n in held_out) < 17


def test_a_class_may_be_called_train(tmp_path: Path, unpacked: Path) -> None:
    src = put(tmp_path / "src", {f"{name}/{n}.png": b"" for name in ("train", "tram") for n in range(4)})
    assert find(src, unpacked).classes == ["train", "tram"]


def test_folders_that_are_no_data_set_are_refused(tmp_path: Path, unpacked: Path) -> None:
    src = as_folder(tmp_path / "src", *imagenet())
    (src / "train/empty").mkdir()
    assert "src/train/empty has no images" in refused(src, unpacked)
    (src / "train/empty").rmdir()
    put(src, {"val/other/a.png": b""})
    assert "src/val has a class 'other' that" in refused(src, unpacked)
    (src / "val").rename(src / "valid")
    put(src, {"validation/n01440764/a.png": b""})
    assert "has the folders validation and valid; keep one" in refused(src, unpacked)
    loose = put(tmp_path / "loose", {"train/a/1.png": b"", "val/1.png": b""})
    assert "loose/val has no folders of images" in refused(loose, unpacked)
    alone = put(tmp_path / "alone", {"train/a/1.png": b""})
    assert f"give {alone}/train instead" in refused(alone, unpacked)
    assert "has a folder val and no folder train" in refused(put(tmp_path / "val", {"val/a/1.png": b""}), unpacked)
    assert "a single image" in refused(put(tmp_path / "single", {"a/1.png": b"", "b/1.png": b""}), unpacked)


# ------------------------------------------------------------------------------------------------------------- tars


def as_tar(files: Mapping[str, bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for name, data in files.items():
            about = tarfile.TarInfo(name)
            about.size = len(data)
            about.mtime = 1.5 if form == tarfile.PAX_FORMAT else 1  # a header of its own
            tar.addfile(about, io.BytesIO(data))
    return buffer.getvalue()


def kit_files(year: int, validation: Files) -> Files:
    """The development kit. ILSVRC numbers classes in another order than the synset ids; 1 to 3 are leaves."""
    ids = ["n02012849", "n03126707", "n01440764", "n00001740"]
    columns = [
        (f"ILSVRC{year}_ID", "f8"),
        *((name, "O") for name in ("WNID", "words", "gloss")),
        ("num_children", "f8"),
    ]
    rows = [(n, id, WORDS.get(id, "entity"), "a gloss", 3.0 * (n == 4)) for n, id in enumerate(ids, 1)]
    buffer = io.BytesIO()
    savemat(buffer, {"synsets": np.array(rows, columns)[:, None]}, do_compression=True)
    shown = sorted(validation, key=lambda name: name.split("/")[1])
    truth = "".join(f"{1 + ids.index(name.split('/')[0])}\n" for name in shown)
    return {"data/meta.mat": buffer.getvalue(), f"data/ILSVRC{year}_validation_ground_truth.txt": truth.encode()}


def train_tar(train: Files, form: int = tarfile.GNU_FORMAT, change: Callable[[bytes], bytes] = bytes) -> bytes:
    synsets = ["n03126707", "n01440764", "n02012849"]
    inner = {id: {name.split("/")[1]: data for name, data in train.items() if name.startswith(id)} for id in synsets}
    return as_tar({f"{id}.tar": change(as_tar(files, form)) for id, files in inner.items()}, form)


TRAIN, VALIDATION = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"


def as_tars(root: Path, train: Files, validation: Files, form: int = tarfile.GNU_FORMAT) -> Path:
    flat = {name.split("/")[1]: data for name, data in validation.items()}
    shuffled = dict(sorted(flat.items(), key=lambda item: zlib.crc32(item[1])))
    kit = {f"ILSVRC2012_devkit_t12/{name}": data for name, data in kit_files(2012, validation).items()}
    return put(root, {
        TRAIN: train_tar(train, form),
        VALIDATION: as_tar(shuffled, form),
        "ILSVRC2012_devkit_t12.tar.gz": gzip.compress(as_tar(kit)),
    })  # fmt: skip


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_tars_and_folders_are_the_same_source(tmp_path: Path, unpacked: Path, form: int) -> None:
    train, validation = imagenet()
    folder = find(as_folder(tmp_path / "folder", train, validation), unpacked)
    tars = find(as_tars(tmp_path / "tars", train, validation, form), unpacked)
    assert tars.kind == "ilsvrc"
    assert told(tars) == told(folder)
    assert {Path(picture.file).name for of in tars.splits.values() for picture in of} == {TRAIN, VALIDATION}
    assert not unpacked.exists()


def test_the_tars_of_2010_and_an_unpacked_kit_are_read_too(tmp_path: Path, unpacked: Path) -> None:
    train, validation = imagenet()
    src = put(tmp_path / "src", {
        "ILSVRC2010_images_train.tar": train_tar(train),
        "ILSVRC2010_images_val.tar": as_tar({f"val/{name.split('/')[1]}": data for name, data in validation.items()}),
        **{f"devkit-1.0/{name}": data for name, data in kit_files(2010, validation).items()},
    })  # fmt: skip
    folder = find(as_folder(tmp_path / "folder", train, validation), unpacked)
    assert told(find(src, unpacked)) == told(folder)


def test_other_members_of_a_tar_are_skipped_and_nothing_is_extracted(tmp_path: Path, unpacked: Path) -> None:
    train, validation = imagenet()
    src = as_tars(tmp_path / "src", train, validation)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
            about = tarfile.TarInfo("link.JPEG")
            about.type, about.linkname = kind, "/etc/passwd"
            tar.addfile(about)
        evil = ["../../evil.JPEG", "/tmp/absolute.JPEG", "a\tb\n.JPEG", "..", "._hidden.JPEG", "x" * 300 + ".JPEG"]
        for name in [*evil, "notes.txt"]:
            about = tarfile.TarInfo(name)
            about.size = 4
            tar.addfile(about, io.BytesIO(b"data"))
    outer = {"n01440764.tar": buffer.getvalue(), "n02012849.tar": as_tar({"a.png": b""}), "._n02012849.tar": b"x"}
    put(src, {TRAIN: as_tar(outer | {"readme.txt": b"", "n03126707.tar": as_tar({"a.png": b""})})})
    found = [name for name in names(find(src, unpacked), "train") if name.startswith("n01440764")]
    assert sorted(found) == sorted(
        f"n01440764/{name}" for name in ("evil.JPEG", "absolute.JPEG", "a\\tb\\n.JPEG", "x" * 300 + ".JPEG")
    )
    assert sorted(path.name for path in tmp_path.rglob("*")) == sorted([*(path.name for path in src.iterdir()), "src"])


def test_a_hard_link_in_a_tar_is_read_as_its_target(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, target in (
            ("x/a.png", ""),
            ("y/a.png", ""),
            ("b.png", "x/a.png"),
            ("c.png", "b.png"),
            ("d.png", "no"),
        ):
            about = tarfile.TarInfo(name)
            about.type, about.linkname = (tarfile.LNKTYPE, target) if target else (tarfile.REGTYPE, "")
            about.size = 0 if target else 4
            archive.addfile(about, io.BytesIO(b"data"))
    first, second, *links = tar.members(tmp_path / "a.tar")
    assert links == [first._replace(name="b.png"), first._replace(name="c.png")]
    assert (first.length, second.length) == (4, 4)
    assert first.start != second.start


def test_a_tar_with_a_thousand_headers_of_long_names_is_refused(tmp_path: Path) -> None:
    about = tarfile.TarInfo("x" * 200)
    header = about.tobuf(tarfile.GNU_FORMAT)[:1024]
    (tmp_path / "a.tar").write_bytes(header * 1200 + bytes(1024))
    with pytest.raises(BadInput, match=r"a.tar is not a tar, or damaged at byte 0"):
        list(tar.members(tmp_path / "a.tar"))


def kit(root: Path, synsets: list[tuple[int, str]]) -> Path:
    columns = [("ILSVRC2012_ID", "f8"), *((name, "O") for name in ("WNID", "words", "gloss")), ("num_children", "f8")]
    buffer = io.BytesIO()
    savemat(buffer, {"synsets": np.array([(n, id, "w", "g", 0.0) for n, id in synsets], columns)[:, None]})
    return put(root, {"data/meta.mat": buffer.getvalue(), "data/ILSVRC2012_validation_ground_truth.txt": b"1\n2\n1"})


def test_a_kit_that_crashes_the_process_that_reads_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some damaged files make SciPy crash. Which ones depends on its version."""
    kit(tmp_path, [(1, "a1"), (2, "b2")])
    assert devkit.read(tmp_path, 2012) == ({"a1": "w", "b2": "w"}, ["a1", "b2", "a1"])
    for dies in ("os.kill(os.getpid(), 11)", "sys.exit(1)", "print('[')"):
        (tmp_path / "dies.py").write_text(f"import os, sys; {dies}")
        monkeypatch.setattr(devkit, "_META_MAT", tmp_path / "dies.py")
        with pytest.raises(BadInput, match=r"meta.mat in .* is damaged or not from 2012; download it again"):
            devkit.read(tmp_path, 2012)


def test_a_kit_with_repeated_classes_or_a_huge_file_is_refused(tmp_path: Path) -> None:
    for synsets in ([(1, "a1"), (1, "b2")], [(1, "a1"), (2, "a1")]):
        with pytest.raises(BadInput, match="has a class number or id twice"):
            devkit.read(kit(tmp_path, synsets), 2012)
    os.truncate(tmp_path / "data/meta.mat", 1 << 27)
    with pytest.raises(BadInput, match=r"meta.mat in .* has 134217728 bytes, and such a file has at most 67108864"):
        devkit.read(tmp_path, 2012)
    archive = tmp_path / "kit.tar.gz"
    archive.write_bytes(gzip.compress(as_tar({"data/meta.mat": bytes((1 << 26) + 1)}), 1))
    with pytest.raises(BadInput, match=r"meta.mat in .* has 67108865 bytes"):
        devkit.read(archive, 2012)
    packed = lzma.compress(as_tar({"data/meta.mat": bytes(random.Random(0).randbytes(20000))}))
    archive.write_bytes(packed[:300] + b"????" + packed[304:])
    with pytest.raises(BadInput, match=r"kit.tar.gz cannot be read"):
        devkit.read(archive, 2012)


def damaged_tar(src: Path, what: str) -> None:
    train, validation = imagenet()
    whole, held = (src / TRAIN).read_bytes(), (src / VALIDATION).read_bytes()
    kit, truth = src / "ILSVRC2012_devkit_t12.tar.gz", "data/ILSVRC2012_validation_ground_truth.txt"
    if what == "no training tar":
        (src / TRAIN).unlink()
    elif what == "no validation tar":
        (src / VALIDATION).unlink()
    elif what == "no kit":
        kit.unlink()
    elif what == "gzipped":
        (src / TRAIN).write_bytes(gzip.compress(whole))
    elif what == "gzipped and called so":
        (src / TRAIN).unlink()
        (src / f"{TRAIN}.gz").write_bytes(gzip.compress(whole))
    elif what == "gzipped inside":
        (src / TRAIN).write_bytes(train_tar(train, change=gzip.compress))
    elif what == "cut off":
        (src / TRAIN).write_bytes(whole[: len(whole) // 2 // 512 * 512])
    elif what == "cut off in a header":
        (src / TRAIN).write_bytes(whole[:300])
    elif what == "cut off after a file":
        (src / VALIDATION).write_bytes(held.rstrip(b"\0") + bytes(-len(held.rstrip(b"\0")) % 512))
    elif what == "cut off inside":
        (src / TRAIN).write_bytes(train_tar(train, change=lambda tar: tar[:1536]))
    elif what == "damaged":
        (src / TRAIN).write_bytes(whole[:512] + b"?" * 512 + whole[1024:])
    elif what == "a negative size":
        header = bytearray(held[:512])
        header[124:136] = b"\xff" * 10 + b"\xfc\x00"
        header[148:156] = b" " * 8
        header[148:156] = f"{sum(header):06o}\0 ".encode()
        (src / VALIDATION).write_bytes(bytes(header) + held[512:])
    elif what == "another tar":
        (src / TRAIN).write_bytes(as_tar({"n01440764/a.JPEG": b""}))
    elif what == "an unknown class":
        (src / TRAIN).write_bytes(as_tar({"n09999999.tar": as_tar({"a.JPEG": b""})}))
    elif what == "an inner node":
        (src / TRAIN).write_bytes(as_tar({"n00001740.tar": as_tar({"a.JPEG": b""})}))
    elif what == "an empty class":
        without = {name: data for name, data in train.items() if not name.startswith("n01440764")}
        (src / TRAIN).write_bytes(train_tar(without | {"n01440764/a.txt": b""}))
    elif what == "a class not in training":
        (src / TRAIN).write_bytes(as_tar({"n01440764.tar": as_tar({"a.JPEG": b""})}))
    elif what == "other counts":
        (src / VALIDATION).write_bytes(as_tar({"a.JPEG": b""}))
    elif what == "two years":
        (src / "ILSVRC2010_images_val.tar").write_bytes(held)
    elif what == "a kit cut off":
        kit.write_bytes(kit.read_bytes()[:-100])
    else:
        files = kit_files(2012, validation)
        if what == "a kit without truth":
            del files[truth]
        elif what == "a kit with other numbers":
            files[truth] = files[truth].replace(b"3", b"4")
        elif what == "a kit with a damaged meta.mat":
            files["data/meta.mat"] = files["data/meta.mat"][:200]
        kit.unlink()
        put(src / "ILSVRC2012_devkit_t12", files)


BAD_TARS = {
    "no training tar": f"src has no {TRAIN}",
    "no validation tar": f"src has no {VALIDATION}",
    "no kit": "src has no ILSVRC2012_devkit_t12.tar.gz",
    "gzipped": "train.tar is gzipped, .* gunzip it first",
    "gzipped and called so": "train.tar.gz is gzipped, .* gunzip it first",
    "gzipped inside": "n01440764.tar in .*train.tar is gzipped",
    "cut off": r"train.tar is truncated at byte \d+, .*; download it again",
    "cut off in a header": "train.tar is truncated at byte 300",
    "cut off after a file": "val.tar is truncated",
    "cut off inside": "n01440764.tar in .*train.tar is truncated",
    "damaged": "n03126707.tar in .*train.tar is not a tar, or damaged at byte 512|n01440764.tar in",
    "a negative size": "val.tar is (truncated|not a tar, or damaged)",
    "another tar": "it is not the training tar",
    "an unknown class": "n09999999.tar, a class that .*devkit.* does not have",
    "an inner node": "n00001740.tar, a class that .*devkit.* does not have",
    "an empty class": "n01440764.tar in .* has no images",
    "a class not in training": "shows n03126707, a class without a tar in .*train.tar",
    "other counts": "has 1 images and the development kit has classes for 5",
    "two years": "the tars of ILSVRC2012 and of ILSVRC2010",
    "a kit cut off": "devkit_t12.tar.gz cannot be read",
    "a kit without truth": "has no data/ILSVRC2012_validation_ground_truth.txt",
    "a kit with other numbers": "lines that are not class numbers from meta.mat",
    "a kit with a damaged meta.mat": "meta.mat in .* is damaged",
}


@pytest.mark.parametrize("what", BAD_TARS)
def test_damaged_or_missing_tars_are_refused(tmp_path: Path, unpacked: Path, what: str) -> None:
    src = as_tars(tmp_path / "src", *imagenet())
    damaged_tar(src, what)
    with pytest.raises(BadInput, match=BAD_TARS[what]):
        find(src, unpacked)


# ---------------------------------------------------------------------------------------------------------- Parquet


def parquet_file(
    path: Path, columns: Mapping[str, Any], classes: list[str] | None = None, label: str = "label"
) -> None:
    table = pyarrow.table(columns)
    if classes is not None:
        features = {label: {"names": classes, "_type": "ClassLabel"}, "image": {"_type": "Image"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(table, path, row_group_size=2)


def structs(*pictures: tuple[bytes | None, str | None]) -> list[dict[str, Any]]:
    return [{"bytes": data, "path": path} for data, path in pictures]


def as_parquet(root: Path) -> Path:
    """Three files with two classes. Some pictures have no name, a repeated name, no bytes, or are null."""
    first = structs((b"one", "x/b.JPEG"), (b"two", "a.JPEG"), (b"three", None))
    second = [*structs((b"four", "a.JPEG"), (None, "gone.JPEG")), None]
    for number, (pictures, labels) in enumerate(((first, [1, 0, 1]), (second, [0, 1, 0]))):
        columns = {"image": pictures, "label": labels, "other": [1, 2, 3]}
        parquet_file(root / f"train-{number:05}-of-00002.parquet", columns, ["crane", "crane"])
    parquet_file(root / "validation-00000-of-00001.parquet", {"image": structs((b"five", "v.JPEG")), "label": [1]})
    parquet_file(root / "test-00000-of-00001.parquet", {"image": structs((b"six", "t.JPEG")), "label": [-1]})
    return root


@pytest.mark.parametrize("folder", ["", "data"])
def test_parquet_files_are_unpacked_picture_by_picture(tmp_path: Path, unpacked: Path, folder: str) -> None:
    as_parquet(tmp_path / "src" / folder)
    found = find(tmp_path / "src", unpacked)
    assert (found.kind, found.classes, found.pixels) == ("parquet", ["crane (0)", "crane (1)"], None)
    assert [(picture.name, sources.read(picture)) for picture in found.splits["train"]] == [
        ("0/a.JPEG", b"two"),
        ("0/a.JPEG (2)", b"four"),
        ("0/train-00001-of-00002-000002", b""),
        ("1/b.JPEG", b"one"),
        ("1/gone.JPEG", b""),
        ("1/train-00000-of-00002-000002", b"three"),
    ]
    assert [(picture.name, sources.read(picture)) for picture in found.splits["validation"]] == [("1/v.JPEG", b"five")]


def test_parquet_columns_may_be_plain_bytes_and_unnamed_fine_labels(tmp_path: Path, unpacked: Path) -> None:
    for split in ("train", "val"):
        columns = {"img": [b"a", b"b"], "fine_label": pyarrow.array([0, 11 if split == "val" else 1], pyarrow.uint8())}
        parquet_file(tmp_path / f"src/{split}-0.parquet", {name: array for name, array in columns.items()})
    assert "has 4 images and 12 classes" in refused(tmp_path / "src", unpacked)
    parquet_file(tmp_path / "src/val-0.parquet", {"img": [b"c"], "fine_label": [2]})
    found = find(tmp_path / "src", unpacked)
    assert found.classes == ["0", "1", "2"]
    assert names(found, "validation") == ["2/val-0-000000"]


def test_damaged_or_missing_parquet_files_are_refused(
    tmp_path: Path, unpacked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    src = as_parquet(tmp_path / "src")
    _, second = sorted(src.glob("train-*"))
    whole = second.read_bytes()
    second.unlink()
    assert "src has 1 of 2 files train-*.parquet, number 1 is missing" in refused(src, unpacked)
    second.write_bytes(whole[:-20])
    assert "train-00001-of-00002.parquet cannot be read" in refused(src, unpacked)
    for columns, words in (
        ({"image": [b""], "label": [2]}, "row 0 of .* has the label 2, and labels are 0 to 1"),
        ({"image": [b""], "label": [None]}, "the columns image .binary., label .null.; it needs image"),
        ({"image": [b"", b""], "label": [0, None]}, "row 1 of .* has the label None"),
        ({"image": ["text"], "label": [0]}, "the columns image .string., label"),
        ({"picture": [b""], "label": [0]}, "the columns picture .binary., label"),
    ):
        parquet_file(second, columns)
        with pytest.raises(BadInput, match=words):
            find(src, unpacked)
    second.write_bytes(whole)
    (src / "validation-00000-of-00001.parquet").unlink()
    (src / "test-00000-of-00001.parquet").unlink()
    assert "no validation-*.parquet" in refused(src, unpacked)
    as_parquet(src)

    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(parquet.importlib, "import_module", missing)
    assert "pip install 'alexnet-jax[parquet]'" in refused(src, unpacked)


def test_a_file_is_unpacked_again_only_if_it_is_incomplete_damaged_or_outdated(tmp_path: Path, unpacked: Path) -> None:
    src = as_parquet(tmp_path / "src")
    second = src / "train-00001-of-00002.parquet"
    whole, times = second.read_bytes(), second.stat()
    second.write_bytes(b"PAR1" + bytes(100))
    assert "cannot be read" in refused(src, unpacked)
    [first] = unpacked.iterdir()
    second.write_bytes(whole)
    os.utime(second, ns=(times.st_atime_ns, times.st_mtime_ns))
    # The first file has been unpacked, the second was interrupted.
    data = first.read_bytes()
    first.write_bytes(data.replace(b"one", b"ONE"))
    found = find(src, unpacked)
    assert [sources.read(picture) for picture in found.splits["train"] if picture.name == "1/b.JPEG"] == [b"ONE"]
    [file] = {picture.file for picture in found.splits["train"] if picture.name == "0/a.JPEG (2)"}
    Path(file).rename(f"{file}.incomplete")
    Path(f"{file}.incomplete").write_bytes(b"half")
    assert told(find(src, unpacked)) == told(found)
    assert not list(unpacked.glob("*.incomplete"))
    # After a power cut a file may have its name and length but not its bytes.
    for damage in (bytes(len(data)), b"", data[:-8] + b"\xff" * 8, data[:-12] + b"????" + data[-8:]):
        first.write_bytes(damage)
        find(src, unpacked)
        assert first.read_bytes() == data
    # A file that has changed is unpacked again.
    os.utime(src / "train-00000-of-00002.parquet", ns=(1, 1))
    assert b"one" in [sources.read(picture) for picture in find(src, unpacked).splits["train"]]


# -------------------------------------------------------------------------------------------------------------- IDX


def idx_file(array: np.ndarray, compressed: bool = False) -> bytes:
    data = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
    return gzip.compress(data) if compressed else data


def idx_files(pictures_NHW: np.ndarray, first: int, begin: tuple[str, str], mark: str, compressed: bool) -> Files:
    """The four files of a set. The labels are `first`, first + 1, first + 2, first, ..."""
    files, end = {}, ".gz" if compressed else ""
    for number, name in enumerate(begin):
        part = pictures_NHW[: len(pictures_NHW) - 2 * number]
        labels = (np.arange(len(part)) % 3 + first).astype(np.uint8)
        files[f"{name}-images{mark}idx3-ubyte{end}"] = idx_file(part, compressed)
        files[f"{name}-labels{mark}idx1-ubyte{end}"] = idx_file(labels, compressed)
    return files


PICTURES_NHW = np.random.default_rng(0).integers(0, 256, (12, 4, 5), np.uint8)


@pytest.mark.parametrize("mark", ["-", "."])
def test_idx_files_are_read_in_place_and_gzipped_ones_unpacked(tmp_path: Path, unpacked: Path, mark: str) -> None:
    plain = find(put(tmp_path / "a", idx_files(PICTURES_NHW, 0, ("train", "t10k"), mark, False)), unpacked)
    assert not unpacked.exists()
    assert (plain.kind, plain.classes, plain.pixels) == ("idx", ["0", "1", "2"], (4, 5, 1))
    assert names(plain, "train")[:5] == ["0/00", "0/03", "0/06", "0/09", "1/01"]
    assert names(plain, "validation")[:4] == ["0/0", "1/1", "2/2", "0/3"]
    for picture in plain.splits["train"]:
        pixels_HW = np.frombuffer(sources.read(picture), np.uint8).reshape(4, 5)
        np.testing.assert_array_equal(pixels_HW, PICTURES_NHW[int(picture.name.split("/")[1])])
    packed = find(put(tmp_path / "b", idx_files(PICTURES_NHW, 0, ("train", "t10k"), mark, True)), unpacked)
    assert told(packed) == told(plain)
    assert len(list(unpacked.iterdir())) == 2


@pytest.mark.parametrize("compressed", [False, True])
def test_emnist_is_turned_upright_and_labelled_from_0(tmp_path: Path, unpacked: Path, compressed: bool) -> None:
    begin = ("emnist-letters-train", "emnist-letters-test")
    lying = idx_files(PICTURES_NHW.swapaxes(1, 2), 1, begin, "-", compressed)
    src = put(tmp_path / "emnist", lying)
    upright = find(put(tmp_path / "mnist", idx_files(PICTURES_NHW, 0, ("train", "t10k"), "-", False)), unpacked)
    assert told(find(src, unpacked))[1:] == told(upright)[1:]
    assert find(src, unpacked).classes == ["1", "2", "3"]
    put(src, {"emnist-letters-mapping.txt": b"1 65 97\n2 66 98\n3 67\n"})
    assert find(src, unpacked).classes == ["Aa", "Bb", "C"]
    put(src, idx_files(PICTURES_NHW, 0, ("emnist-digits-train", "emnist-digits-test"), "-", compressed))
    assert "has several sets, of emnist-digits-train and emnist-letters-train; keep one" in refused(src, unpacked)


def test_damaged_or_missing_idx_files_are_refused(tmp_path: Path, unpacked: Path) -> None:
    src = put(tmp_path / "src", idx_files(PICTURES_NHW, 0, ("train", "t10k"), "-", False))
    labels, pictures = src / "train-labels-idx1-ubyte", src / "train-images-idx3-ubyte"
    whole = labels.read_bytes()
    labels.write_bytes(whole[:-3])
    assert "train-labels-idx1-ubyte holds 9 bytes, but its header announces 12" in refused(src, unpacked)
    labels.write_bytes(b"PK" + whole[2:])
    assert "is not an IDX file" in refused(src, unpacked)
    labels.unlink()
    assert "has no train-labels-idx1-ubyte" in refused(src, unpacked)
    Path(f"{labels}.gz").write_bytes(gzip.compress(whole)[:-9])
    assert "cannot be read" in refused(src, unpacked)
    labels.write_bytes(idx_file(np.zeros(11, np.uint8)))
    assert "has 12 images and there are 11 labels" in refused(src, unpacked)
    labels.write_bytes(whole)
    pictures.write_bytes(idx_file(PICTURES_NHW)[:-1])
    assert "train-images-idx3-ubyte holds 239 bytes, but its header announces 240" in refused(src, unpacked)
    pictures.write_bytes(gzip.compress(idx_file(PICTURES_NHW)[:-1]))
    assert "train-images-idx3-ubyte holds 239 bytes, but its header announces 240" in refused(src, unpacked)
    pictures.write_bytes(idx_file(PICTURES_NHW.reshape(12, 5, 4)))
    assert "the images of train in" in refused(src, unpacked)
    pictures.write_bytes(idx_file(PICTURES_NHW[:0]))
    labels.write_bytes(idx_file(np.zeros(0, np.uint8)))
    assert "has no images" in refused(src, unpacked)
    pictures.unlink()
    assert "has no train-images-idx3-ubyte, with or without .gz" in refused(src, unpacked)


def test_no_more_of_an_idx_file_is_unpacked_than_its_header_announces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = tmp_path / "train-labels-idx1-ubyte.gz"
    labels.write_bytes(gzip.compress(idx_file(np.zeros(10, np.uint8)) + bytes(1 << 24)))
    asked, read = [], gzip.GzipFile.read

    def reading(file: gzip.GzipFile, size: int | None = -1) -> bytes:
        asked.append(size)
        return read(file, size)

    monkeypatch.setattr(gzip.GzipFile, "read", reading)
    with pytest.raises(BadInput, match="holds more bytes, but its header announces 10; download it again"):
        idx.read(labels, 1)
    assert asked == [8, 11]
    # Nor is memory allocated for bytes that do not exist.
    labels.write_bytes(gzip.compress(bytes((0, 0, 8, 3)) + b"\xff" * 12 + b"x"))
    with pytest.raises(BadInput, match="holds 1 bytes, but its header announces"):
        idx.read(labels, 3)


# ------------------------------------------------------------------------------------------------------------ CIFAR


class Python2(pickle._Pickler):
    """Pickles bytes as Python 2 pickled strings."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_bytes(self, data: bytes) -> None:
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(data)

    dispatch[bytes] = save_bytes


def python2(value: Any) -> bytes:
    buffer = io.BytesIO()
    Python2(buffer, 2).dump(value)
    return buffer.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def cifar(hundred: bool, dump: Callable[[Any], bytes] = python2) -> tuple[Files, Files]:
    """The binary and the Python files of a small CIFAR: batches of 2, 3, 4, 5 and 6 pictures, and a test batch."""
    rng = np.random.default_rng(0)
    count = 100 if hundred else 10
    classes = [f"class_{number:02}" for number in range(count)]
    batches = [f"data_batch_{number}" for number in range(1, 6)]
    sizes = {"train": 20, "test": 3} if hundred else dict(zip([*batches, "test_batch"], range(2, 8), strict=True))
    binary, python = {}, {}
    for name, size in sizes.items():
        planes, labels = rng.integers(0, 256, (size, 3072), np.uint8), rng.integers(0, count, (size, 1), np.uint8)
        coarse = labels // 5
        columns = (coarse, labels, planes) if hundred else (labels, planes)
        binary[f"{name}.bin"] = np.concatenate(columns, axis=1).tobytes()
        told = {b"fine_labels": labels, b"coarse_labels": coarse} if hundred else {b"labels": labels}
        lists = {key: array[:, 0].tolist() for key, array in told.items()}
        python[name] = dump({b"batch_label": b"a batch", b"data": planes, **lists})
    words = "\n".join(classes).encode() + b"\n"
    coded = [name.encode() for name in classes]
    if hundred:
        python["meta"] = dump({b"fine_label_names": coded, b"coarse_label_names": [b"x"] * 20})
        return binary | {"fine_label_names.txt": words, "coarse_label_names.txt": b"x\n" * 20}, python
    python["batches.meta"] = dump({b"num_cases_per_batch": 2, b"label_names": coded, b"num_vis": 3072})
    return binary | {"batches.meta.txt": words + b"\n"}, python


def packed(folder: str, files: Files) -> bytes:
    shuffled = sorted(files, key=lambda name: zlib.crc32(name.encode()))
    return gzip.compress(as_tar({f"{folder}/{name}": files[name] for name in shuffled}), 1)


@pytest.mark.parametrize("hundred", [False, True])
def test_all_versions_of_cifar_are_the_same_source(tmp_path: Path, unpacked: Path, hundred: bool) -> None:
    binary, python = cifar(hundred)
    folders = ("cifar-100-binary", "cifar-100-python") if hundred else ("cifar-10-batches-bin", "cifar-10-batches-py")
    archives = [f"cifar-{100 if hundred else 10}-{version}.tar.gz" for version in ("binary", "python")]
    found = []
    for folder, archive, files in zip(folders, archives, (binary, python), strict=True):
        inside = put(tmp_path / "unpacked" / archive / folder, files)
        alone = put(tmp_path / "packed" / archive, {archive: packed(folder, files)})
        renamed = put(tmp_path / "renamed" / archive, files)
        found += [find(src, unpacked) for src in (inside, inside.parent, renamed, alone, alone / archive)]
    assert (found[0].kind, found[0].pixels, len(found[0].classes)) == ("cifar", (32, 32, 3), 100 if hundred else 10)
    assert all(told(each) == told(found[0]) for each in found)
    first = next(picture for picture in found[0].splits["train"] if picture.name.endswith("/00"))
    record = binary["train.bin"][1:] if hundred else binary["data_batch_1.bin"]
    assert first.name == f"class_{record[0]:02}/00"
    pixels_HWC = np.frombuffer(sources.read(first), np.uint8).reshape(32, 32, 3)
    np.testing.assert_array_equal(pixels_HWC.transpose(2, 0, 1).ravel(), np.frombuffer(record[1:3073], np.uint8))


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickles_of_python_3_are_read_too(tmp_path: Path, unpacked: Path, protocol: int) -> None:
    src = put(tmp_path / "cifar-10-batches-py", cifar(False, lambda held: pickle.dumps(held, protocol))[1])
    other = put(tmp_path / "cifar-10-batches-bin", cifar(False)[0])
    assert told(find(src, unpacked)) == told(find(other, unpacked))


class Evil:
    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.arguments


@pytest.mark.parametrize(
    ("call", "called"), [(os.system, "posix.system"), (np.load, "numpy.load"), (eval, "builtins.eval")]
)
@pytest.mark.parametrize("file", ["data_batch_3", "batches.meta"])
def test_a_pickle_that_calls_a_function_is_refused(
    tmp_path: Path, unpacked: Path, call: Any, called: str, file: str
) -> None:
    files = cifar(False)[1]
    files[file] = pickle.dumps({b"data": Evil(call, f"touch {tmp_path}/executed")}, 2)
    src = put(tmp_path / "src", {"cifar-10-python.tar.gz": packed("cifar-10-batches-py", files)})
    words = refused(src, unpacked)
    assert f"{file} in {src}/cifar-10-python.tar.gz tries to call {called!r}" in words.replace(
        "__builtin__", "builtins"
    )
    assert "nothing was executed" in words
    assert not (tmp_path / "executed").exists()


class Announced:
    """Pickled, this is an array with any shape, type and data."""

    def __init__(self, shape: tuple[int, ...], code: str, data: bytes) -> None:
        self.shape, self.code, self.data = shape, code, data

    def __reduce__(self) -> tuple[Any, ...]:
        build, arguments, _ = np.zeros(1, np.uint8).__reduce__()
        return build, arguments, (1, self.shape, np.dtype(self.code), False, self.data)


BAD_BATCHES: dict[str, Any] = {
    "too large": {b"labels": [0], b"data": Announced((1, 3072), "u1", b"short")},
    "not bytes": {b"labels": [0], b"data": Announced((1, 3072), "f8", bytes(8 * 3072))},
    "objects": {b"labels": [0], b"data": Announced((1, 3072), "O", bytes(3072))},
    "another shape": {b"labels": [0], b"data": np.zeros((1, 3071), np.uint8)},
    "a list": {b"labels": [0], b"data": [0] * 3072},
    "other labels": {b"labels": ["a"], b"data": np.zeros((1, 3072), np.uint8)},
    "label 10": {b"labels": [10], b"data": np.zeros((1, 3072), np.uint8)},
    "no labels": {b"data": np.zeros((1, 3072), np.uint8)},
    "no images": {b"labels": [], b"data": np.zeros((0, 3072), np.uint8)},
    "no dict": [1, 2],
}


@pytest.mark.parametrize("what", [*BAD_BATCHES, "cut off", "empty"])
def test_a_damaged_batch_is_refused(tmp_path: Path, unpacked: Path, what: str) -> None:
    files = cifar(False)[1]
    damaged = {"cut off": files["data_batch_2"][:-50], "empty": b""}
    files["data_batch_2"] = damaged[what] if what in damaged else python2(BAD_BATCHES[what])
    words = refused(put(tmp_path / "cifar-10-batches-py", files), unpacked)
    assert f"data_batch_2 in {tmp_path}/cifar-10-batches-py" in words
    assert "download it again" in words


def test_damaged_or_missing_cifar_files_are_refused(tmp_path: Path, unpacked: Path) -> None:
    binary, python = cifar(False)
    src = put(tmp_path / "src", {"cifar-10-binary.tar.gz": packed("x", binary)[:-2000]})
    archive = src / "cifar-10-binary.tar.gz"
    assert f"{archive} cannot be read" in refused(src, unpacked)
    damaged = bytearray(lzma.compress(as_tar({"x": random.Random(0).randbytes(20000)})))
    damaged[300:304] = b"????"
    archive.write_bytes(damaged)
    assert f"{archive} cannot be read" in refused(src, unpacked)
    archive.write_bytes(packed("x", {name: data for name, data in binary.items() if name != "data_batch_4.bin"}))
    assert f"{archive} does not contain data_batch_4.bin" in refused(src, unpacked)
    archive.write_bytes(packed("x", binary | {"data_batch_4.bin": binary["data_batch_4.bin"][:-1]}))
    assert "data_batch_4.bin in" in (words := refused(src, unpacked))
    assert "is truncated" in words
    # A path in the archive is harmless: only its last part counts, and files are written under our own names.
    archive.write_bytes(packed("../../..", binary))
    assert len(find(src, unpacked).splits["train"]) == 20
    assert "is a file but not one of CIFAR's" in refused(archive, unpacked, kind="idx")
    assert {path.name for path in tmp_path.iterdir()} == {"src", "unpacked"}
    put(src, {"cifar-100-python.tar.gz": b""})
    assert "has CIFAR-10 and CIFAR-100; give one of" in refused(src, unpacked)
    del python["data_batch_5"]
    assert "has no data_batch_5; download cifar-10-python.tar.gz again" in refused(
        put(tmp_path / "cifar-10-batches-py", python), unpacked
    )


# ------------------------------------------------------------------------------------------------------ recognition


def test_a_directory_without_a_set_is_refused_with_a_list_of_known_sets(tmp_path: Path, unpacked: Path) -> None:
    assert f"there is no directory {tmp_path}/nothing" in refused(tmp_path / "nothing", unpacked)
    src = put(tmp_path / "src", {"notes.txt": b"", "loose.jpg": b"", ".hidden/a.jpg": b"", "empty/notes.txt": b""})
    assert "notes.txt is a file but not one of CIFAR's archives" in refused(src / "notes.txt", unpacked)
    words = refused(src, unpacked)
    for known in ("CLASS", "ILSVRC2012", "*.parquet", "train-images-idx3-ubyte", "CIFAR-10"):
        assert known in words
    for kind, missing in {
        "folder": "src/empty has no images",
        "ilsvrc": f"src has no {TRAIN}",
        "parquet": "src has no train-*.parquet",
        "idx": "src has no train-images-idx3-ubyte",
        "cifar": "src has none of cifar-10-binary.tar.gz",
    }.items():
        assert missing in refused(src, unpacked, kind=kind)
    assert not unpacked.exists()


def test_a_directory_with_several_sets_needs_the_option_from(tmp_path: Path, unpacked: Path) -> None:
    src = as_tars(tmp_path / "src", *imagenet())
    put(src, {"prepared/sheet.png": photograph(1)})
    assert find(src, unpacked).kind == "ilsvrc"
    as_folder(src, *imagenet())
    assert "several kinds, folder and ilsvrc; choose one with --from" in refused(src, unpacked)
    assert told(find(src, unpacked, kind="folder")) == told(find(src, unpacked, kind="ilsvrc"))


def test_a_file_that_is_missing_or_truncated_is_named(tmp_path: Path, unpacked: Path) -> None:
    source = find(as_tars(tmp_path / "src", *imagenet()), unpacked)
    picture = source.splits["train"][-1]
    with pytest.raises(BadInput, match=r"train.tar ends in the middle of n03126707/"):
        sources.read(picture._replace(length=1 << 20))
    with pytest.raises(BadInput, match=r"in .*/gone cannot be read: No such file"):
        sources.read(picture._replace(file=str(tmp_path / "gone")))
    with pytest.raises(Unreadable, match=r"^there is no such file$"):
        sources.read(picture._replace(file=str(tmp_path / "gone"), length=-1))
