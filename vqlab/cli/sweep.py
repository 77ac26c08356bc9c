"""``vqlab sweep``: run all rows of an experiment file, each as an ordinary run."""

import argparse
import difflib
import shlex
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from vqlab.atomic_io import write_atomic
from vqlab.cli.arguments import Parser
from vqlab.errors import UserError, suggest
from vqlab.experiments.experiment import Experiment, Row, read_experiment
from vqlab.experiments.runner import OUTPUT, VQLAB, Outcome, Runner, Status, refuse_conflicts
from vqlab.experiments.runs import read_run
from vqlab.experiments.text import align, duration, plural, short
from vqlab.experiments.timing import fitting_scale, measure, read_budget, started_scale, steps_of, total

Check = Callable[[list[list[str]]], list[str | None]]  # argument lists of vqlab fit -> the error of each, or None


def sweep(args: Sequence[str], command: Sequence[str] = VQLAB, check: Check | None = None) -> None:
    """Run ``vqlab sweep`` with ``args``; ends with status 1 if a row failed.

    Raises:
        UserError: If the file or an option is wrong; then no row is started.
    """
    parser = Parser(
        prog="vqlab sweep",
        description="Run all rows of an experiment file, each as an ordinary run; options of vqlab fit apply to every "
        "row. The same command resumes a sweep. Examples of experiment files: configs/experiments/*.yaml.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("file", type=Path, help="an experiment file, such as configs/experiments/jsa_cifar10.yaml")
    add("--rows", metavar="A,B", help="only these rows; a name without its seed means all repeats")
    add("--jobs", type=int, default=1, help="rows that run at the same time and share GPUs and cores (default 1)")
    add("--test", action="store_true", help="test each row on its best checkpoint after training")
    add("--dry-run", action="store_true", help="check the options, print the calls and their times, and stop")
    add("--runs", type=Path, default=Path("runs"), help="folder of all runs (default runs)")
    scale = "multiply each setting of the files that counts training steps by X, also schedules"
    add("--scale-steps", type=float, default=1.0, metavar="X", help=scale)
    budget = (
        "choose X of --scale-steps so that all rows take this time, such as 2h or 1h30m; a few batches are measured"
    )
    add("--budget", metavar="TIME", help=budget)
    add("--slurm", type=Path, metavar="OUT.sh", help="write a SLURM job array, and stop")
    options, extra = parser.parse_known_args(args)
    own = [name.replace("_", "-") for name in vars(options)]
    for name in (token[2:].partition("=")[0] for token in extra if token.startswith("--")):  # others go to vqlab fit
        if "." not in name and (close := difflib.get_close_matches(name, own, n=1, cutoff=0.75)):
            raise UserError(f"unknown option --{name}: did you mean --{close[0]}?")
    if options.jobs < 1:
        raise UserError(f"jobs must be at least 1, got {options.jobs}")
    if options.budget and options.scale_steps != 1:
        raise UserError(f"budget {options.budget} chooses scale-steps: leave out one of the two")

    def at_scale(scale: float) -> Experiment:
        return read_experiment(options.file, extra, options.runs, scale)

    experiment = at_scale(options.scale_steps)
    if options.budget:
        experiment = within_budget(experiment, at_scale, options, command, check)
    experiment = replace(experiment, command=shlex.join(["vqlab", "sweep", *args]))
    rows = choose_rows(experiment, options.rows)
    if options.slurm:
        write_slurm_array(experiment, rows, options, extra)
        return
    run_rows(experiment, rows, Runner(experiment, options.test, options.jobs, command), options, check)


def within_budget(
    experiment: Experiment,
    at_scale: Callable[[float], Experiment],
    options: argparse.Namespace,
    command: Sequence[str],
    check: Check | None,
) -> Experiment:
    """Return ``experiment`` with its steps scaled so that its rows take ``--budget``."""
    seconds, rows = read_budget(options.budget), choose_rows(experiment, options.rows)
    scale, besides = started_scale(experiment, rows, options.budget), ""
    if scale is None:
        check_rows(experiment, rows, check)
        times = measure(experiment, rows, Runner(experiment, options.test, options.jobs, command))
        scale, fixed = fitting_scale(seconds, lambda x: total(at_scale(x), rows, times, options.jobs, options.test))
        besides = f"; starts and validations take {duration(fixed)} of it"
    print(f"budget {options.budget}: steps multiplied by {scale:g} in all {len(rows)} rows{besides}")
    return replace(at_scale(scale), budget=options.budget)


def choose_rows(experiment: Experiment, names: str | None) -> list[Row]:
    """Return the rows with these comma-separated names; a name without a seed means all its repeats."""
    if not experiment.rows:
        raise UserError(f"{experiment.path} has no rows: add rows, grid or seeds")
    if names is None:
        return list(experiment.rows)
    known = {name for row in experiment.rows for name in (row.name, row.label)}
    for name in (wanted := names.split(",")):
        if name not in known:
            raise UserError(f"{experiment.path} has no row {name!r}: {suggest(name, sorted(known))}")
    return [row for row in experiment.rows if {row.name, row.label} & {*wanted}]


def run_rows(
    experiment: Experiment, rows: list[Row], runner: Runner, options: argparse.Namespace, check: Check | None
) -> None:
    """Run the rows that are not finished, and print a table of all."""
    refuse_conflicts(experiment, rows)
    todo = [row for row in rows if runner.commands(row)]
    if todo:
        check_rows(experiment, todo, check)
    if options.dry_run:
        for row in rows:
            lines = [shlex.join(["vqlab", *call]) for call in runner.commands(row)]
            print("\n".join(lines) if lines else f"# {row.name} is finished")
        if todo:
            print_times(experiment, todo, runner, options)
        return
    outcomes = {row.name: Outcome(Status.FINISHED) for row in rows}
    if todo:
        print(f"{len(todo)} of {len(rows)} rows to run; each prints into its folder's {OUTPUT}")
        with ThreadPoolExecutor(options.jobs) as pool:
            try:
                for row, outcome in zip(todo, pool.map(runner.run, todo), strict=True):
                    outcomes[row.name] = outcome
                for row in todo:  # the other process may have ended since
                    if outcomes[row.name].status is Status.ELSEWHERE:
                        outcomes[row.name] = runner.run(row)
            except BaseException:  # Ctrl-C, SIGTERM or an error
                print("stopping; the same command resumes from the last checkpoints", flush=True)
                runner.stop()
                raise
    else:
        print(f"nothing to do: all {len(rows)} rows are finished")
    print_table(experiment, rows, outcomes)
    print(f"report on all runs: vqlab report {experiment.runs}")
    if failed := [row for row in rows if outcomes[row.name].status is Status.FAILED]:
        print(f"\n{len(failed)} failed; the same command runs them again:")
        for row in failed:
            print(f"  {row.name}: {outcomes[row.name].error} ({experiment.folder(row) / OUTPUT})")
        sys.exit(1)


def print_times(experiment: Experiment, rows: Sequence[Row], runner: Runner, options: argparse.Namespace) -> None:
    """Print how long each row, and all of them, will take on this machine."""
    times = measure(experiment, rows, runner)
    lines = [("row", "steps", "a step", "a validation", "in all")]
    for row in rows:
        each = times[row.name]
        values = f"{each.step:.3g} s", f"{each.validation:.3g} s", duration(each.of(row, options.test))
        lines.append((row.name, f"{steps_of(row, each.epoch):,}", *values))
    print("\n".join(align(lines)))
    whole = duration(total(experiment, rows, times, options.jobs, options.test))
    print(f"{plural(len(rows), 'row')}, {options.jobs} at a time: about {whole} on this machine")


def check_rows(experiment: Experiment, rows: Sequence[Row], check: Check | None) -> None:
    """Raise UserError for the first row with wrong options."""
    print(f"reading the options of {len(rows)} rows ...", file=sys.stderr, flush=True)
    if check is None:
        from vqlab.cli.lightning import option_errors  # imports torch

        check = option_errors
    errors = check([experiment.fit(row) for row in rows])
    wrong = [f"{row.name}: {error}" for row, error in zip(rows, errors, strict=True) if error]
    if wrong:
        more = f" (and {len(wrong) - 1} more rows have wrong options)" if len(wrong) > 1 else ""
        raise UserError(f"row {wrong[0]}{more}")


def print_table(experiment: Experiment, rows: Sequence[Row], outcomes: dict[str, Outcome]) -> None:
    """Print status, steps, and best and last value of the monitored metric."""
    lines = [("row", "status", "steps", "best", "at step", "last", "of")]
    for row in rows:
        run = read_run(experiment.folder(row))
        figure = run.figure(run.monitor)
        values = (short(figure.best), f"{figure.best_step or 0:,}", short(figure.last)) if figure else ("-",) * 3
        lines.append((row.name, outcomes[row.name].status, f"{run.log.steps:,}", *values, run.monitor))
    print("\n".join(align(lines)))


def write_slurm_array(
    experiment: Experiment, rows: list[Row], options: argparse.Namespace, extra: Sequence[str]
) -> None:
    """Write a script for ``sbatch`` that runs one row per task."""
    stem, path = experiment.path.stem, options.slurm
    own = [*(["--test"] if options.test else []), *([] if str(options.runs) == "runs" else [f"--runs={options.runs}"])]
    own += [] if experiment.scale == 1 else [f"--scale-steps={experiment.scale:g}"]
    call = shlex.join(["vqlab", "sweep", str(experiment.path), *own, *extra])
    script = f"""#!/bin/bash
# {len(rows)} rows of {experiment.path}. The resources of a row are options of sbatch:
#   sbatch --gres=gpu:1 --cpus-per-task=8 --time=24:00:00 {path}
# If submitted again, finished rows end at once, and the others resume from their last checkpoint.
#SBATCH --job-name={stem}
#SBATCH --array=0-{len(rows) - 1}
#SBATCH --output={stem}-%a.out
rows=({" ".join(shlex.quote(row.name) for row in rows)})
unset SLURM_NTASKS  # so that Lightning, not SLURM, starts the processes of a row
exec {call} --rows="${{rows[$SLURM_ARRAY_TASK_ID]}}"
"""
    with write_atomic(path, "--slurm") as file:
        file.write(script.encode())
    print(f"{path}: {len(rows)} rows; submit it with sbatch")
