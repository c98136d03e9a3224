"""What every chapter costs: on two cores, on a GPU, on eight of either, and how good the estimate is."""

from labkit import chapters, costs, scoreboard
from labkit.book import markdown
from labkit.costs import Sizes, Speed, Work
from labkit.runs import Run

EIGHT = 8


def full(sizes: Sizes) -> str:
    """The cost of the reports' experiments by chapter, then every record beside its estimate."""
    runs = scoreboard.recorded()
    return "\n".join(
        [
            _chapters(sizes, runs),
            *(_check(name, sizes, runs) for name in costs.MACHINES),
            _without_wide_vectors(sizes, runs),
        ]
    )


def _chapters(sizes: Sizes, runs: list[Run]) -> str:
    speeds = {name: costs.speed(name, sizes, runs) for name in costs.MACHINES}
    machines = [(name, count) for name in costs.MACHINES for count in (1, EIGHT)]
    header = ("chapter", "experiments", "trillion multiply-adds", *(_machine(*each) for each in machines))
    lines = []
    for chapter, about in chapters.CHAPTERS.items():
        found = (scoreboard.work(row.name, sizes) for row in scoreboard.rows(chapter))
        works = [work for work in found if work is not None]
        total = sum(work.total for work in works) / 1e12
        times = [_time(works, name, count, speeds[name]) for name, count in machines]
        lines.append((f"[{about.title}](../notebooks/{chapter}.ipynb)", len(works), f"{total:,.0f}", *times))
    return markdown.table(header, lines)


def _machine(name: str, count: int) -> str:
    return name if count == 1 else f"{EIGHT} × {name.removeprefix('one ')}"


def _time(works: list[Work], machine: str, count: int, speed: Speed | None) -> str:
    """The estimate, or where nothing was measured the time that the arithmetic alone takes."""
    if speed:
        return costs.spoken(costs.seconds(works, count, speed))
    seconds = costs.side_by_side((work.total / costs.AT_BEST[machine] for work in works), count)
    alone = f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
    return f"not measured; arithmetic alone {alone}"


def _check(machine: str, sizes: Sizes, runs: list[Run]) -> str:
    """One row a record; nothing is hidden that lies outside the tolerance."""
    found = costs.checked(machine, sizes, runs)
    if found.empty:
        return f"No record on {machine} has been made yet{_why_alone(machine)}.\n"
    header = ("run", "family", "measured", "estimated", "ratio", "from other networks", "ratio")
    lines = [
        (
            f"`{row.run}`",
            row.family,
            _milliseconds(row.measured),
            _milliseconds(row.estimated),
            f"{row.estimated / row.measured:.2f}",
            _milliseconds(row.foretold),
            f"{row.foretold / row.measured:.2f}",
        )
        for row in found.itertuples()
    ]
    near, blind = (costs.within(found[column] / found["measured"]) for column in ("estimated", "foretold"))
    says = (
        f"Of {len(found)} experiments on record on {machine}, {near} lie within ±{costs.TOLERANCE:.0%} of "
        f"the estimate, and {blind} within that of what the records of other networks foretell."
    )
    table = markdown.table(header, lines, classes="sortable")
    return f"{says}\n\n" + markdown.dropdown(f"Time for one image on {machine}, record by record", table)


def _without_wide_vectors(sizes: Sizes, runs: list[Run]) -> str:
    """What processors are in for that lack what the estimate was measured with."""
    ratios = costs.narrow(sizes, runs)
    if ratios.empty:
        return ""
    made = ", ".join(f"`{name}`" for name in dict.fromkeys(ratios.index))
    return (
        f"The two cores of the estimate are taken to compute with {costs.WIDE}: older records do not say. "
        f"Two cores without it took "
        f"{ratios.median():.1f} times as long as estimated, by the median of {made}.\n"
    )


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.3g} ms"


def _why_alone(machine: str) -> str:
    """What the times of a machine are that was never measured."""
    if machine not in costs.AT_BEST:
        return ""
    return (
        ". Its arithmetic alone is the time of the networks' multiply-adds at "
        f"{costs.AT_BEST[machine] / 1e12:.0f} trillion a second, as NVIDIA's data sheet has it for bfloat16: "
        "no run can be faster, and how much slower ours are was not measured"
    )
