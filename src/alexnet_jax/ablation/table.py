"""The table of an ablation: differences from the baseline, over paired seeds, beside the paper's and those of 2012.

The interval is that of the paired t-test, over the differences of runs with the same seed, 95 % for each row by itself
(SciPy's `ttest_1samp` of the differences). Holm's correction over all rows of the table is statsmodels'
`multipletests`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from alexnet_jax.ablation.experiments import BASELINE, Points
from alexnet_jax.ablation.results import Result
from alexnet_jax.config import BadInput

AVERAGES = {
    "five_networks": {BASELINE: 5},
    "seven_networks": {BASELINE: 5, "six_conv": 2},
}
"""of how many networks of which experiments the probabilities are averaged; their seeds follow each other"""
ONE_CROP = "one_crop"
# Table 1 and the footnote of section 6: 39.0 and 18.3 % with one crop, 37.5 and 17.0 % with ten. Table 2: 38.1 and
# 16.4 % with five networks, 36.7 and 15.4 % with seven of two kinds, 40.7 and 18.2 % with one. The logs are those of
# net 145-2010.
OF_THE_BASELINE: dict[str, tuple[Points | None, Points | None]] = {
    ONE_CROP: ((1.5, 1.3), (1.55, 1.30)),
    "five_networks": ((-2.6, -1.8), None),
    "seven_networks": ((-4.0, -2.8), None),
}
LEVEL = 0.05
COLUMNS = (
    "experiment", "n", "error", "difference", "95 % interval", "result", "one crop", "top-5", "training", "paper",
    "logs of 2012",
)  # fmt: skip

Figures = Mapping[str, tuple[Points | None, Points | None]]
"""for each experiment the paper's difference and that of the logs of 2012"""


@dataclass(frozen=True)
class OneCrop:
    """The difference of the top-1 errors with one crop, in percentage points, and its interval."""

    difference: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Row:
    """One experiment against the baseline. Differences are in percentage points, errors are fractions."""

    experiment: str
    seeds: list[int]
    """of the pairs"""
    top1_error: float
    """mean over the pairs"""
    difference: float
    """of the top-1 errors: mean over the pairs of experiment minus baseline"""
    low: float | None
    """of the 95 % interval; None for fewer than two pairs"""
    high: float | None
    one_crop: OneCrop | None
    """the same with one crop: a network trained without crops has only seen the centres of the images"""
    top5_difference: float
    train_difference: float | None
    p: float | None
    """of the t-test, by itself"""
    p_holm: float | None
    """after Holm's correction over the table"""
    paper: Points | None
    logs_2012: Points | None

    @property
    def verdict(self) -> str:
        if self.low is None or self.high is None or self.p_holm is None:
            return "one pair" if len(self.seeds) == 1 else "no interval"
        if self.low <= 0 <= self.high:
            return "no difference"
        said = "higher" if self.difference > 0 else "lower"
        return said if self.p_holm < LEVEL else f"{said}, but not after Holm's correction"


def rows(results: Sequence[Result], figures: Figures) -> list[Row]:
    """A row for each experiment that has pairs, the largest difference first. Raises BadInput without the libraries."""
    try:
        from statsmodels.stats.multitest import multipletests
    except ImportError:
        raise BadInput("the table needs statsmodels; install alexnet_jax[ablate]") from None
    baseline = {result.seed: result for result in results if result.experiment == BASELINE}
    found = []
    for experiment in dict.fromkeys(result.experiment for result in results if result.experiment != BASELINE):
        pairs = pairs_of(experiment, results, baseline)
        if pairs:
            found.append(_row(experiment, pairs, *figures.get(experiment, (None, None))))
    if len(baseline) > 0:
        crops = [(one_crop(result), result) for result in baseline.values()]
        found.append(replace(_row(ONE_CROP, crops, *OF_THE_BASELINE[ONE_CROP]), one_crop=None, train_difference=None))
    tested = [row for row in found if row.p is not None]
    if tested:
        corrected = multipletests([row.p for row in tested], LEVEL, "holm")[1].tolist()
        holm = dict(zip((row.experiment for row in tested), corrected, strict=True))
        found = [replace(row, p_holm=holm.get(row.experiment)) for row in found]
    return sorted(found, key=lambda row: -row.difference)


def one_crop(result: Result) -> Result:
    """The same network measured with one crop."""
    return replace(result, top1_error=result.one_crop_top1_error, top5_error=result.one_crop_top5_error)


def pairs_of(experiment: str, results: Sequence[Result], baseline: Mapping[int, Result]) -> list[tuple[Result, Result]]:
    """(experiment, baseline) for each seed that both have. Several networks are compared with the mean of each."""
    pairs = []
    for result in sorted((one for one in results if one.experiment == experiment), key=lambda one: one.seed):
        members = range(result.seed, result.seed + AVERAGES.get(experiment, {}).get(BASELINE, 1))
        if all(seed in baseline for seed in members):
            pairs.append((result, mean([baseline[seed] for seed in members])))
    return pairs


def mean(members: Sequence[Result]) -> Result:
    """A result with the members' mean errors."""
    return replace(
        members[0],
        top1_error=fmean(member.top1_error for member in members),
        top5_error=fmean(member.top5_error for member in members),
        one_crop_top1_error=fmean(member.one_crop_top1_error for member in members),
        train_error=fmean(member.train_error for member in members),
    )


def _row(experiment: str, pairs: Sequence[tuple[Result, Result]], paper: Points | None, logs: Points | None) -> Row:
    differences = points(pairs, "top1_error")
    low, high, p = interval(differences)
    of_one_crop = points(pairs, "one_crop_top1_error")
    return Row(
        experiment,
        [changed.seed for changed, _ in pairs],
        fmean(changed.top1_error for changed, _ in pairs),
        fmean(differences),
        low,
        high,
        OneCrop(fmean(of_one_crop), *interval(of_one_crop)[:2]),
        fmean(points(pairs, "top5_error")),
        fmean(points(pairs, "train_error")),
        p,
        None,
        paper,
        logs,
    )


def points(pairs: Sequence[tuple[Result, Result]], name: str) -> list[float]:
    return [100 * (getattr(changed, name) - getattr(base, name)) for changed, base in pairs]


def interval(differences: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    """The 95 % interval of the mean, and the p-value of no difference, by the paired t-test."""
    from scipy import stats

    if len(differences) < 2:
        return None, None, None
    if math.isclose(min(differences), max(differences), abs_tol=1e-9):  # t has no value
        return differences[0], differences[0], float(abs(differences[0]) < 1e-9)
    test = stats.ttest_1samp(differences, 0.0)  # of the differences, which is the paired test
    low, high = test.confidence_interval(1 - LEVEL)
    return float(low), float(high), float(test.pvalue)


def markdown(found: Sequence[Row], results: Sequence[Result], about: str) -> str:
    """The table as a page that the documentation can include."""
    baseline = [result for result in results if result.experiment == BASELINE]
    errors = ", ".join(f"{100 * result.top1_error:.2f}" for result in sorted(baseline, key=lambda one: one.seed))
    minutes = fmean(result.seconds for result in results) / 60 if results else 0.0
    devices = ", ".join(sorted({result.device for result in results}))
    lines = [
        f"{about} Baseline, ten crops: {errors} %. {len(results)} results, {minutes:.1f} minutes each on {devices}.",
        "",
        f"| {' | '.join(COLUMNS)} |",
        "|---" * len(COLUMNS) + "|",
    ]
    for row in found:
        between = span(row.low, row.high)
        of_one_crop = "" if row.one_crop is None else f"{row.one_crop.difference:+.2f}"
        if row.one_crop is not None and row.one_crop.low is not None:
            of_one_crop += f" ({span(row.one_crop.low, row.one_crop.high)})"
        train = "" if row.train_difference is None else f"{row.train_difference:+.2f}"
        cells = (
            f"`{row.experiment}`", len(row.seeds), f"{100 * row.top1_error:.2f}", f"{row.difference:+.2f}", between,
            row.verdict, of_one_crop, f"{row.top5_difference:+.2f}", train, pair(row.paper), pair(row.logs_2012),
        )  # fmt: skip
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += [
        "",
        "Differences are percentage points, experiment minus baseline over runs with the same seed. The intervals are "
        'Student\'s t over these pairs (`scipy.stats`), each by itself; "no difference" means that the interval '
        "holds zero, and Holm's correction over the table is that of `statsmodels`. `one crop` is the difference where "
        "both networks see the central crop alone; the other test errors are those of ten crops. `training` is the "
        "difference on the first 10,000 training images, with one crop. The last two columns are the differences on "
        "ImageNet, top-1 and top-5.",
    ]
    return "\n".join(lines) + "\n"


def span(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:+.2f} to {high:+.2f}"


def pair(figures: Points | None) -> str:
    return "" if figures is None else f"{figures[0]:+.2f}, {figures[1]:+.2f}"
