"""The figures of the benchmark as Markdown tables."""

from collections import Counter
from statistics import median
from typing import Any

from contestants.turns import markdown, spread

LIBRARIES = "Python", "jax", "numpy", "onnxruntime", "torch"


def report(found: dict[str, Any]) -> str:
    """The whole report: what was run and where, then a table for each network and kind of work."""
    device = next((cell["machine"]["device"] for cell in found["speed"] if cell["machine"]), "cpu")
    machine = f"{found['processor']}, {found['cores']} cores" + (f", {device}" if device != "cpu" else "")
    text = f"`{found['command']}`, {found['precision']}, {found['date']}, {machine}.\n\n"
    for versions in filter(None, found["versions"].values()):
        text += "- " + ", ".join(f"{name} {versions[name]}" for name in LIBRARIES if name in versions) + "\n"
    for name, work in dict.fromkeys((cell["preset"], cell["work"]) for cell in found["speed"]):
        cells = [cell for cell in found["speed"] if (cell["preset"], cell["work"]) == (name, work)]
        text += "\n" + speed(name, work, cells)
    if "without_torch" in found:
        text += f"\nThe tables below leave PyTorch out: {found['without_torch']}.\n"
    if "startup" in found:
        text += "\n" + seconds("start-up", found["startup"])
    if "result" in found:
        text += "\n" + seconds(
            f"`fashion` to a validation error of {found['result']['target']:g}", found["result"]["times"]
        )
    return text


def speed(name: str, work: str, cells: list[dict[str, Any]]) -> str:
    """Medians over the rounds, with minimum and maximum. Ratios are taken within each round."""
    rows, notes = [], ""
    missing: dict[str, dict[str, list[str]]] = {}
    bases = [base for base in ("PyTorch's best", "plain JAX", "onnxruntime") if any(_has(cell, base) for cell in cells)]
    for cell in cells:
        for who, of in cell["contestants"].items():
            best = ", its best" if who == cell["torch_best"] else ""
            over = [spread(of["over"][base]["rounds"], 2) if base in of["over"] else "" for base in bases]
            share = spread(of["matmul_share"]["rounds"], 2) if "matmul_share" in of else ""
            images, ms = of["images_per_second"]["rounds"], of["ms_per_step"]["median"]
            rows.append(
                [
                    str(cell["batch"]),
                    who + best,
                    spread(images, _digits(images)),
                    f"{ms:,.{_digits([ms]) + 1}f}",
                    *over,
                    share,
                ]
            )
        if cell["machine"]:
            matmul, copy = cell["machine"]["matmul_gflops"], cell["machine"]["copy_gb_per_second"]
            notes += (
                f"- Batch {cell['batch']}: {cell['flops_per_step'] / 1e9:,.4g} GFLOP per step. The machine multiplies "
                f"matrices at {spread(matmul['rounds'], 1)} GFLOP/s and copies at {spread(copy['rounds'], 1)} GB/s.\n"
            )
        for who, why in cell["skipped"].items():
            missing.setdefault(why, {}).setdefault(who, []).append(str(cell["batch"]))
    for why, batches in missing.items():
        who = "; ".join(f"{name} (batch {', '.join(of)})" for name, of in batches.items())
        notes += f"- Left out: {who}: {why}.\n"
    header = ["batch", f"{name}, {work}", "images/s", "ms per step"]
    titles = [*header, *(f"over {base}" for base in bases), "share of the matmul rate"]
    return markdown(titles, rows) + "\n" + notes


def _has(cell: dict[str, Any], base: str) -> bool:
    return any(base in of["over"] for of in cell["contestants"].values())


def _digits(values: list[float]) -> int:
    return 0 if median(values) >= 100 else 1


def seconds(what: str, times: dict[str, list[float | str]]) -> str:
    """Medians of the runs that succeeded, and why the others did not."""
    rows = []
    for name, found in times.items():
        there = [each for each in found if isinstance(each, float)]
        missed = Counter(each for each in found if isinstance(each, str))
        said = [spread(there, 2)] if there else []
        said += [f"{count} of {len(found)}: {why}" for why, count in missed.items()]
        rows.append([name, "; ".join(said)])
    return markdown([what, "seconds"], rows)
