"""The commands. Each validates the whole of params.yaml, then calls the step that its DVC stage calls."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

import embedpipe
from embedpipe.cli import serving
from embedpipe.cli.common import Json
from embedpipe.cli.common import chosen as _chosen
from embedpipe.cli.common import open_project as _open
from embedpipe.cli.common import print_json as _print_json
from embedpipe.errors import ConfigError, DiskFullError, EmbedpipeError
from embedpipe.terminal import exit_with, log_json, say
from embedpipe.workspace import Workspace

app = typer.Typer(
    name="embedpipe",
    help="Embed once, train many heads. `dvc repro` runs every step; these run one, or answer a question.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_USE = "Use of what was trained"
_STEPS, _QUESTIONS, _CARE = "Steps, in order", "Questions", "Care of the store"


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    debug = "--debug" in arguments  # before the command or behind it
    try:
        code = app(args=[one for one in arguments if one != "--debug"], standalone_mode=False)
    except EmbedpipeError as error:
        return exit_with(error, debug)
    except (KeyboardInterrupt, typer.Abort):
        say("stopped; what is committed stays, and the same command goes on from there")
        return 130
    except Exception as error:
        if not hasattr(error, "format_message"):  # click's usage errors format themselves
            raise
        error.show()  # type: ignore[attr-defined]
        return 2
    return code if isinstance(code, int) else 0


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(embedpipe.__version__)
        raise typer.Exit


@app.callback()
def common(
    project: Annotated[
        Path | None, typer.Option(help="Folder of params.yaml; default: the current one.")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of mistakes too.")] = False,
    log: Annotated[
        str, typer.Option(help="What is said on the way: text for a person, json for a machine.")
    ] = "text",
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if log not in ("text", "json"):
        raise ConfigError(f"--log: expected text or json, found {log!r}")
    log_json(log == "json")
    if project is not None:
        os.chdir(project) if project.is_dir() else _no_folder(project)


def _no_folder(project: Path) -> None:
    raise ConfigError(f"{project}: expected a folder that holds params.yaml, found none")


def _each(step: Callable[[Workspace, str], Any], workspace: Workspace, names: Iterable[str]) -> list[Any]:
    return [step(workspace, name) for name in names]


@app.command(rich_help_panel=_STEPS)
def ingest(
    datasets: Annotated[list[str] | None, typer.Argument(help="Data sets; default: all.")] = None,
) -> None:
    """List the samples of each data set, and write the targets of its tasks."""
    workspace, params = _open()
    from embedpipe.steps.ingest import ingest_dataset
    from embedpipe.steps.targets import make_task_targets

    chosen = _chosen(datasets, params.datasets, "data set")
    _each(ingest_dataset, workspace, chosen)
    _each(make_task_targets, workspace, [name for name, task in params.tasks.items() if task.on in chosen])


@app.command(rich_help_panel=_STEPS)
def source(
    models: Annotated[list[str] | None, typer.Argument(help="Source models; default: all.")] = None,
) -> None:
    """Train the source models that params.yaml trains here."""
    workspace, params = _open()
    from embedpipe.steps.source import train_source_model

    _each(train_source_model, workspace, _chosen(models, params.source, "source model"))


@app.command(rich_help_panel=_STEPS)
def extract(
    backbones: Annotated[list[str] | None, typer.Argument(help="Backbones; default: all.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Embed at most so many samples, then stop with exit code 75.")
    ] = None,
    stop_after: Annotated[
        str | None, typer.Option(help="Stop after so long (7h50m) at the end of a block, with exit code 75.")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="i/n: compute the i-th of n parts, as one of a SLURM array; the last commits."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, as `plan`.")] = False,
    as_json: Json = False,
) -> None:
    """Run each backbone over the samples that its store lacks."""
    if dry_run:
        return plan(backbones, as_json)
    workspace, params = _open()
    from embedpipe.steps.extract import extract_features, extract_part

    if task is not None and limit is not None:
        raise ConfigError("--task, --limit: expected one of them, found both; a task takes its part whole")
    done = [
        extract_features(workspace, name, limit=limit, stop_after=stop_after)
        if task is None
        else extract_part(workspace, name, task, stop_after=stop_after)
        for name in _chosen(backbones, params.backbones, "backbone")
    ]
    if as_json:
        _print_json([one.to_dict() for one in done if one is not None])


@app.command(rich_help_panel=_STEPS)
def train(tasks: Annotated[list[str] | None, typer.Argument(help="Tasks; default: all.")] = None) -> None:
    """Train the heads of each task; finished ones are not trained again."""
    workspace, params = _open()
    from embedpipe.steps.train import train_heads

    _each(train_heads, workspace, _chosen(tasks, params.tasks, "task"))


@app.command(rich_help_panel=_STEPS)
def select() -> None:
    """Select tap, backbone, family and hyperparameters jointly, on validation."""
    workspace, _ = _open()
    from embedpipe.steps.select import select_arms

    select_arms(workspace)


@app.command(rich_help_panel=_STEPS)
def transfer(
    task: Annotated[str | None, typer.Argument(help="A task; default: all.")] = None,
    arm: Annotated[
        str | None, typer.Argument(help="Train no other arm of `transfer:`; default: all.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Adapt source models to each task: fine-tuning and its kin. With torchrun in front, on several GPUs."""
    workspace, params = _open()
    from embedpipe.steps.transfer import transfer_arms

    chosen = _chosen([task] if task is not None else None, params.tasks, "task")
    if arm is not None:
        _chosen([arm], params.transfer, "transfer arm")
    done = [transfer_arms(workspace, one, arm) for one in chosen]
    if as_json:
        _print_json(done)


@app.command(rich_help_panel=_STEPS)
def compare() -> None:
    """Compare every arm on validation and print the leaderboard."""
    workspace, _ = _open()
    from embedpipe.steps.compare import compare_arms, print_leaderboard

    compare_arms(workspace)
    print_leaderboard(workspace)


@app.command(rich_help_panel=_STEPS)
def report() -> None:
    """Write the page data/report/index.html."""
    workspace, _ = _open()
    from embedpipe.steps.report import write_report

    write_report(workspace)


@app.command(rich_help_panel=_STEPS)
def test(
    task: Annotated[list[str] | None, typer.Option("--task", help="Tasks; default: all.")] = None,
    arm: Annotated[
        list[str] | None, typer.Option("--arm", help="Arms by id; default: the selected ones.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Open the sealed test for the selected arms (or those named) and log that it was read."""
    workspace, params = _open()
    from embedpipe.steps.test import read_test

    rows = read_test(workspace, _chosen(task, params.tasks, "task"), arm or None, quiet=as_json)
    if as_json:
        _print_json(rows)


app.command(rich_help_panel=_USE)(serving.predict)
app.command(rich_help_panel=_USE)(serving.bundle)


@app.command(rich_help_panel=_STEPS)
def prefetch(
    backbones: Annotated[list[str] | None, typer.Argument(help="Backbones; default: all.")] = None,
    as_json: Json = False,
) -> None:
    """Fetch the weights that backbones need from the network, so that a machine without it can run them."""
    workspace, params = _open()
    from embedpipe.steps.prefetch import prefetch_weights

    chosen = _chosen(backbones, params.backbones, "backbone")
    fetched = [prefetch_weights(workspace, name, params.backbones[name]) for name in chosen]
    if as_json:
        _print_json(fetched)


@app.command(rich_help_panel=_QUESTIONS)
def info(as_json: Json = False) -> None:
    """Check params.yaml and show what there is: data sets, stores, arms, leaderboard."""
    workspace, params = _open()
    from embedpipe.cli.info import collect, show

    found = collect(workspace, params)
    _print_json(found) if as_json else show(workspace, found)
    if found["problems"]:
        raise typer.Exit(2)


@app.command(rich_help_panel=_QUESTIONS)
def plan(
    backbones: Annotated[list[str] | None, typer.Argument(help="Backbones; default: all.")] = None,
    as_json: Json = False,
) -> None:
    """Say what extraction would do: samples, bytes a tap, disk, time. Exit code 2 if the disk will not hold it."""
    workspace, params = _open()
    from embedpipe.cli.tables import show_plan
    from embedpipe.steps.extract import plan_features

    plans = _each(plan_features, workspace, _chosen(backbones, params.backbones, "backbone"))
    if as_json:
        _print_json([one.to_dict() for one in plans])
    for one in plans if not as_json else ():
        show_plan(one)
    for one in plans:
        if one.refusal is not None:
            raise DiskFullError(one.refusal)


@app.command(rich_help_panel=_QUESTIONS)
def taps(
    backbone: Annotated[str, typer.Argument(help="A backbone of params.yaml.")],
    as_json: Json = False,
) -> None:
    """List every node of a backbone that can be tapped, with its shape and bytes a sample."""
    workspace, params = _open()
    from embedpipe.cli.tables import show_nodes
    from embedpipe.steps.extract import describe_nodes

    name = _chosen([backbone], params.backbones, "backbone")[0]
    nodes = describe_nodes(workspace, name)
    _print_json(nodes) if as_json else show_nodes(name, nodes)


@app.command(rich_help_panel=_QUESTIONS)
def rank(
    tasks: Annotated[list[str] | None, typer.Argument(help="Tasks; default: all but dense ones.")] = None,
    as_json: Json = False,
) -> None:
    """Rank every backbone's taps by training samples alone, in seconds, before any head is trained."""
    workspace, params = _open()
    from embedpipe.steps.rank import rank_taps, show_ranking

    chosen = list(_chosen(tasks, params.tasks, "task"))
    able = [task for task in chosen if params.tasks[task].kind != "dense"]
    if not tasks and able and len(able) < len(chosen):
        left_out = ", ".join(task for task in chosen if task not in able)
        say(f"{left_out}: left out, since screens do not look at the places of dense tasks")
        chosen = able
    rankings = _each(rank_taps, workspace, chosen)
    if as_json:
        _print_json(rankings)
    for one in rankings if not as_json else ():
        show_ranking(one)


@app.command(rich_help_panel=_QUESTIONS)
def verify(
    backbones: Annotated[
        list[str] | None, typer.Argument(help="Backbones; default: all that have a store.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Read every stored file again and compare it with its checksum. Exit code 1 if any is damaged."""
    workspace, params = _open()
    from embedpipe.cli.tables import show_verified
    from embedpipe.steps.verify import verify_stores

    checked = verify_stores(
        workspace, _chosen(backbones, params.backbones, "backbone"), named=bool(backbones)
    )
    _print_json(checked) if as_json else show_verified(checked)
    if any(one["damages"] for one in checked):
        raise typer.Exit(1)


@app.command(rich_help_panel=_CARE)
def repair(
    backbones: Annotated[
        list[str] | None, typer.Argument(help="Backbones; default: all that have a store.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Mend damaged features: put whole copies back, embed the rest again, replace DVC's damaged objects."""
    workspace, params = _open()
    from embedpipe.steps.repair import repair_stores, show_repaired

    done = repair_stores(workspace, _chosen(backbones, params.backbones, "backbone"), named=bool(backbones))
    _print_json(done) if as_json else show_repaired(done)


@app.command(rich_help_panel=_CARE)
def gc(
    yes: Annotated[
        bool, typer.Option("--yes", help="Free it; without, only say what would be freed.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Free working groups of no backbone and rows of no sample; says what before it does."""
    workspace, _ = _open()
    from embedpipe.steps.gc import collect_garbage, find_garbage, show_garbage

    garbage = find_garbage(workspace)
    _print_json({**garbage.to_dict(), "freed": yes}) if as_json else show_garbage(garbage, freed=yes)
    if yes:
        collect_garbage(workspace, garbage)


@app.command(rich_help_panel=_CARE)
def forget(
    sample: Annotated[
        str, typer.Argument(help="A sample_id, <data set>/<sample_id>, or a key of 32 hex digits.")
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Erase it; without, only say where it is held.")] = False,
    as_json: Json = False,
) -> None:
    """Erase one sample's features from the working stores, and list what of DVC's still holds them."""
    workspace, _ = _open()
    from embedpipe.steps.forget import find_sample, show_forgetting
    from embedpipe.steps.forget import forget as erase

    found = find_sample(workspace, sample)
    if yes:
        erase(workspace, found)
    _print_json({**found.to_dict(), "erased": yes}) if as_json else show_forgetting(found, done=yes)


@app.command(rich_help_panel=_QUESTIONS)
def export(
    backbone: Annotated[str, typer.Argument(help="A backbone of params.yaml.")],
    out: Annotated[
        str, typer.Argument(help="File or folder to write, or an address such as s3://bucket/name.")
    ],
    kind: Annotated[
        str,
        typer.Option("--format", help="hdf5, parquet, npy, safetensors; hdf5-view: no copy, this machine."),
    ],
    tap: Annotated[list[str] | None, typer.Option("--tap", help="Taps; default: all.")] = None,
    split: Annotated[list[str] | None, typer.Option("--split", help="Splits; default: all.")] = None,
    as_json: Json = False,
) -> None:
    """Write features with the ids of their samples for other tools; Parquet grows by what is new."""
    workspace, params = _open()
    from embedpipe.steps.export import export_features

    name = _chosen([backbone], params.backbones, "backbone")[0]
    splits = _chosen(split or [], ("train", "val", "test", "excluded"), "split") if split else []
    done = export_features(
        workspace, name, out, kind, datasets=list(params.datasets), taps=tap or [], splits=splits
    )
    if as_json:
        _print_json(done)
    else:
        note = f" ({done['note']})" if done["note"] else ""
        say(f"{done['out']}: {done['num_rows']} rows, {done['num_written']} of them written now{note}")
