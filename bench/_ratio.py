"""A line of the table that bench/RESULTS.md begins with."""


def ratio(what: str, beside: str, of: str, times: float, *, goal: str = "–", met: bool = True) -> None:
    """Print how what was measured compares with what it is put beside, in speed, time or memory."""
    print(f"| {what} | {beside} | {of} | {times:.3g}× | {goal}{'' if met else ', **missed**'} |")
