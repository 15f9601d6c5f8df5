"""Tables that answer a question in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from embedpipe.progress import duration_text

if TYPE_CHECKING:  # what a plan is made by imports torch: seconds that other tables need not wait for
    from embedpipe.extract.estimate import Estimate


def out() -> Console:
    """Where answers go: stdout, as wide as the terminal."""
    return Console(highlight=False, soft_wrap=True)


def nbytes_text(nbytes: float) -> str:
    """``12.3 MB``: three digits, powers of 1,000."""
    for unit in ("B", "kB", "MB", "GB"):
        if nbytes < 1000:
            return f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:,.3g} TB"


def show_plan(plan: Estimate) -> None:
    """What one `extract` would do."""
    console = out()
    console.print(f"[bold]{plan.backbone}[/] on {plan.device} in {plan.precision}")
    for note in plan.notes:
        console.print(f"  {note}", markup=False)
    console.print(
        f"  samples: {plan.num_samples:,}, to embed: {plan.num_to_embed:,} in {plan.num_blocks:,} blocks"
        + (f", about {duration_text(plan.time_s)} at {plan.rate:,.0f}/s" if plan.time_s is not None else "")
    )
    table = Table(box=None, pad_edge=False, show_header=False)
    for tap, nbytes in plan.tap_nbytes.items():
        table.add_row("  ", tap, nbytes_text(nbytes))
    console.print(table)
    verdict = "fits" if plan.fits else "[red]does not fit[/]"
    console.print(
        f"  disk: {nbytes_text(plan.peak_nbytes)} needed on the way, {nbytes_text(plan.new_nbytes)} kept, "
        f"{nbytes_text(plan.free_nbytes)} free: {verdict}"
    )
    for sentence in (plan.advice, plan.saved):
        if sentence:
            console.print(f"  {sentence}", markup=False)


def show_nodes(backbone: str, nodes: Sequence[Mapping[str, Any]]) -> None:
    """Every node that can be tapped; main stages, which `blocks` stands for, in bold."""
    table = Table(
        title=f"taps of {backbone}, one sample in float16; bold: blocks", title_justify="left", box=None
    )
    for column in ("node", "shape", "layout"):
        table.add_column(column)
    for column in ("bytes", "depth"):
        table.add_column(column, justify="right")
    for node in nodes:
        shape = " × ".join(str(size) for size in node["shape"])
        name = f"{node['name']} = {', '.join(node['also'])}" if node["also"] else node["name"]
        cells = (name, shape, node["layout"], nbytes_text(node["nbytes"]), f"{node['depth']:.2f}")
        table.add_row(*cells, style="bold" if node["block"] else None)
    out().print(table)


def show_verified(checked: Sequence[Mapping[str, Any]]) -> None:
    """What `verify` read and found."""
    console = out()
    for one in checked:
        if not one["damages"]:
            console.print(
                f"{one['where']}: {one['num_files']:,} files, {nbytes_text(one['nbytes'])}: all as written",
                markup=False,
            )
            continue
        console.print(
            f"{one['where']}: {len(one['damages'])} of {one['num_files']:,} files damaged",
            style="red",
            markup=False,
        )
        for damage in one["damages"]:
            console.print(
                f"  {damage['path']}: {damage['kind']}: expected {damage['expected']}, found {damage['found']}",
                markup=False,
            )
