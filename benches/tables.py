"""Markdown tables of medians with minimum and maximum, as docs/benchmarks.md shows them."""

import statistics


def spread(values):
    """`median (minimum–maximum)`, with the digits that are worth something."""
    if not values:
        return "–"
    middle = statistics.median(values)
    if min(values) == max(values):
        return number(middle)
    return f"{number(middle)} ({number(min(values))}–{number(max(values))})"


def number(value):
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 else f"{value:.2f}"


def quotients(over, under):
    """Those of values that were measured in the same round."""
    return [above / below for above, below in zip(over, under) if below]


def title(text, explanation):
    print(f"\n### {text}\n\n{explanation}\n", flush=True)


def head(*columns):
    print("| " + " | ".join(columns) + " |")
    print("|" + " --- |" * len(columns), flush=True)


def row(*cells):
    print("| " + " | ".join(cells) + " |", flush=True)
