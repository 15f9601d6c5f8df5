"""Commands that use what was trained."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from embedpipe.cli.common import Json, chosen, open_project, print_json
from embedpipe.errors import ConfigError
from embedpipe.terminal import say


def predict(
    inputs: Annotated[
        Path, typer.Argument(help="A folder of images, an image, or a table of paths or texts.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="File to write, .csv or .parquet; default: CSV on stdout.")
    ] = None,
    arm: Annotated[
        list[str] | None,
        typer.Option(
            "--arm",
            help="ARM or TASK:ARM, of heads or transfer arms; default: the selected arm of each task.",
        ),
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option("--task", help="Tasks; default: all but dense ones.")
    ] = None,
    column: Annotated[
        str | None,
        typer.Option(help="Column of a table that holds paths or texts; default: image, path or text."),
    ] = None,
    id_column: Annotated[
        str | None, typer.Option("--id", help="Column of a table that names its rows; default: the path.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu or cuda; default: extract.device of params.yaml.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Answer for new inputs: probabilities of every task, in one pass of each backbone.

    An input that cannot be read is a row with an error. Features that are in the store are not computed again; transfer
    arms, such as lp_ft@glyphnet, have none there and compute every input.
    """
    workspace, params = open_project()
    if out is None and as_json:
        raise ConfigError("--json: expected --out beside it, found none: the table itself would go to stdout")
    if device not in (None, "auto", "cpu", "cuda"):
        raise ConfigError(f"--device: expected auto, cpu or cuda, found {device!r}")
    from embedpipe.serve.table import check_out, write_table
    from embedpipe.steps.predict import predict_inputs

    if out is not None:
        check_out(out)
    table, summary = predict_inputs(
        workspace,
        inputs,
        tasks=chosen(task, params.tasks, "task"),
        named=bool(task),
        arms=arm or [],
        column=column,
        id_column=id_column,
        device=device,
    )
    write_table(table, sys.stdout if out is None else out)
    if as_json:
        print_json({**summary, "out": str(out)})
        return
    passes = ", ".join(
        f"{name}: {num:,} computed, {summary['known'][name]:,} known"
        for name, num in summary["computed"].items()
    )
    failed = f", {summary['num_failed']:,} of them with an error" if summary["num_failed"] else ""
    say(f"{summary['num_inputs']:,} inputs{failed}; {passes}")


def bundle(
    task: Annotated[str, typer.Argument(help="A task of params.yaml.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder to write; default: <task>.bundle. A bundle there is replaced.")
    ] = None,
    arm: Annotated[
        str | None, typer.Option("--arm", help="A head or a transfer arm by id; default: the selected one.")
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help="safetensors (models of torchvision and glyphnet, always), pt2 (others, always), onnx; "
            "default: all that can be written.",
        ),
    ] = None,
    licence: Annotated[
        str | None, typer.Option(help="Licence of the bundle, for its card, such as Apache-2.0.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write an arm as one folder: backbone, reductions and head, with a model card. `embedpipe.load` opens it."""
    workspace, params = open_project()
    from embedpipe.steps.bundle import bundle_arm

    name = chosen([task], params.tasks, "task")[0]
    folder = out or Path(f"{name}.bundle")
    done = bundle_arm(workspace, name, folder, arm=arm, formats=formats or [], licence=licence)
    if as_json:
        print_json(done)
        return
    checked = done["checked"]
    said = (
        f"within {checked['largest_difference']:.1e} of the pipeline's predictions on {checked['num_samples']} samples"
        if checked["num_samples"]
        else f"not compared with the pipeline's predictions: {checked['why']}"
    )
    say(f"{done['out']}: {done['arm']} as {', '.join(done['formats'])}; {said}")
