"""``vqlab sweep``: all rows of an experiment file, each an ordinary run."""

import argparse
import difflib
import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import yaml

from vqlab.atomic_io import write_atomic
from vqlab.cli.parser import Parser
from vqlab.errors import UserError
from vqlab.experiments.experiment import Experiment, Row, read_experiment, suggest
from vqlab.experiments.exports import slurm_script, wandb_rows, wandb_search
from vqlab.experiments.runner import OUTPUT, VQLAB, Outcome, Runner, Status, refuse_conflicts
from vqlab.experiments.search import check_space, first_choice, import_optuna, search
from vqlab.experiments.status import table

Check = Callable[[list[list[str]]], list[str | None]]  # calls of vqlab fit -> a complaint against each, or None
EXAMPLE = """\
an experiment file:
  base: configs/vqvae.yaml              # each row is vqlab fit --config <base> --name <name> --<option>=<value> ...
  common: {trainer.max_steps: 3000}     # options of all rows
  rows:                                 # explicit rows ...
    - {name: small, model.quantizer.num_embeddings: 256}
    - {name: large, model.quantizer.num_embeddings: 1024}
  grid: {model.lr: [1.0e-3, 3.0e-4]}    # ... crossed with each of these values
  seeds: [0, 1, 2]                      # repeats, which set seed_everything and data.seed (the split, too;
                                        # data.seed: 0 in common holds it fast)
  space: {model.lr: {low: 1.0e-4, high: 1.0e-2, log: true}}       # for --search; a list is a choice

Started again, a sweep goes on where it was stopped, in whatever way. Several processes and machines may run one sweep:
none takes a row that another has. Rows run in runs/<model>/<name>[_seed<N>]/.
"""


def sweep(args: Sequence[str], command: Sequence[str] = VQLAB, check: Check | None = None) -> None:
    """Run ``vqlab sweep`` with ``args``; ends with status 1 if a row failed.

    Args:
        args: The arguments behind ``sweep``.
        command: How ``vqlab`` is called.
        check: Returns for each of many calls what is wrong with its options, by default :mod:`vqlab.cli.check_options`.

    Raises:
        UserError: If the file or an option is wrong; no row is started then.
    """
    options, extra = _parser().parse_known_args(args)
    refuse_slips(extra, [name.replace("_", "-") for name in vars(options)])
    for name, number in (("jobs", options.jobs), ("search", options.search)):
        if number is not None and number < 1:
            raise UserError(f"{name} must be at least 1, got {number}: set --{name}=2")
    experiment = read_experiment(options.file, extra, options.runs, options.scale_steps)
    runner = Runner(experiment, options.test, options.jobs, command)
    try:
        if options.slurm or options.wandb_yaml:
            export(experiment, options, extra)
        elif options.search:
            search_space(experiment, runner, options, check or ask_for_complaints)
        else:
            run_table(experiment, runner, options, check or ask_for_complaints)
    except KeyboardInterrupt:
        print("stopped; the same command goes on from the last checkpoints")
        sys.exit(130)


def run_table(experiment: Experiment, runner: Runner, options: argparse.Namespace, check: Check) -> None:
    """Run the rows that are not finished, and tabulate all."""
    rows = choose_rows(experiment, options.rows)
    refuse_conflicts(experiment, rows)
    todo = [row for row in rows if not runner.is_done(row)]
    if todo:
        refuse_complaints(todo, check([experiment.fit(row) for row in todo]))
    if options.dry_run:
        for row in rows:
            lines = [shlex.join(["vqlab", *call]) for call in runner.commands(row)]
            print("\n".join(lines) if lines else f"# {row.name} is finished")
        return
    outcomes = {row.name: Outcome(Status.FINISHED) for row in rows}
    if todo:
        print(f"{len(todo)} of {len(rows)} rows to run; each prints into its folder's {OUTPUT}")
        with ThreadPoolExecutor(options.jobs) as pool, stopped_by_signals(runner):
            for row, outcome in zip(todo, pool.map(runner.run, todo), strict=True):
                outcomes[row.name] = outcome
            for row in todo:  # another process may have ended, well or badly, since
                if outcomes[row.name].status is Status.ELSEWHERE:
                    outcomes[row.name] = runner.run(row)
    else:
        print(f"nothing to do: all {len(rows)} rows are finished")
    print(table(experiment, rows, {name: outcome.status for name, outcome in outcomes.items()}))
    print(f"the log of it all: vqlab report {experiment.runs}")
    if failed := [row for row in rows if outcomes[row.name].status is Status.FAILED]:
        print(f"\n{len(failed)} failed; the same command tries again:")
        for row in failed:
            print(f"  {row.name}: {outcomes[row.name].error} ({experiment.folder(row) / OUTPUT})")
        sys.exit(1)


def search_space(experiment: Experiment, runner: Runner, options: argparse.Namespace, check: Check) -> None:
    """Search the experiment's space until there are as many trials as asked for."""
    first = experiment.row("first", {name: first_choice(c) for name, c in check_space(experiment).items()})
    if options.rows or options.dry_run:
        raise UserError("a search has no rows to choose or to show: leave out --rows and --dry-run")
    import_optuna()
    refuse_complaints([first], check([experiment.fit(first)]))
    with ThreadPoolExecutor(options.jobs) as pool, stopped_by_signals(runner):
        found = search(experiment, options.search, runner, pool)
    print(found)


@contextmanager
def stopped_by_signals(runner: Runner) -> Iterator[None]:
    """Show on the screen how the rows stand; end them if the block is left early, by Ctrl-C, SIGTERM or an error."""
    before = {n: signal.signal(n, signal.default_int_handler) for n in (signal.SIGINT, signal.SIGTERM)}
    runner.board.start()
    try:
        yield
    except BaseException:
        runner.board.say("stopping ...")
        runner.stop()
        raise
    finally:
        runner.board.close()
        for number, handler in before.items():
            signal.signal(number, handler)


def choose_rows(experiment: Experiment, names: str | None) -> list[Row]:
    """Return the rows of these names, comma-separated; a name without its seed means all its repeats."""
    if not experiment.rows:
        mend = "add --search=20, or rows" if experiment.space else "add rows, grid or seeds"
        raise UserError(f"{experiment.path} has no rows: {mend}")
    if names is None:
        return list(experiment.rows)
    known = {name for row in experiment.rows for name in (row.name, row.label)}
    for name in (wanted := names.split(",")):
        if name not in known:
            raise UserError(f"{experiment.path} has no row {name!r}: {suggest(name, sorted(known))}")
    return [row for row in experiment.rows if {row.name, row.label} & {*wanted}]


def export(experiment: Experiment, options: argparse.Namespace, extra: Sequence[str]) -> None:
    """Write the experiment for SLURM or W&B."""
    own = [*(["--test"] if options.test else []), *([] if str(options.runs) == "runs" else [f"--runs={options.runs}"])]
    own += [] if options.scale_steps == 1 else [f"--scale-steps={options.scale_steps:g}"]
    arguments = [*own, *extra]
    if options.slurm:
        rows = choose_rows(experiment, options.rows)
        with write_atomic(options.slurm, "--slurm") as file:
            file.write(slurm_script(experiment, rows, arguments, options.slurm).encode())
        print(f"{options.slurm}: {len(rows)} rows; send it off with sbatch")
    if options.wandb_yaml:
        if experiment.rows:
            definition = wandb_rows(experiment, choose_rows(experiment, options.rows), arguments)
        else:
            definition = wandb_search(experiment, check_space(experiment))
        with write_atomic(options.wandb_yaml, "--wandb-yaml") as file:
            file.write(yaml.safe_dump(definition, sort_keys=False).encode())
        print(f"{options.wandb_yaml}: register it with wandb sweep, and start wandb agent where it shall run")


def refuse_slips(extra: Sequence[str], own: Sequence[str]) -> None:
    """Raise UserError for what is probably an option of the sweep's own, misspelt: all others go to vqlab fit."""
    for name in (token[2:].partition("=")[0] for token in extra if token.startswith("--")):
        if "." not in name and (close := difflib.get_close_matches(name, own, n=1, cutoff=0.75)):
            raise UserError(f"unknown option --{name}: did you mean --{close[0]}?")


def ask_for_complaints(commands: list[list[str]]) -> list[str | None]:
    """Return for each call of ``vqlab fit`` what is wrong with its options, by asking one process for all."""
    print(f"reading the options of {len(commands)} rows ...", file=sys.stderr, flush=True)
    asked = [sys.executable, "-m", "vqlab.cli.check_options"]
    answer = subprocess.run(asked, input=json.dumps(commands), capture_output=True, text=True)
    if answer.returncode:
        reason = (answer.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise UserError(f"vqlab fit cannot start: {reason}")
    return json.loads(answer.stdout)


def refuse_complaints(rows: Sequence[Row], complaints: Sequence[str | None]) -> None:
    """Raise UserError for the first row whose options are wrong."""
    wrong = [(row, complaint) for row, complaint in zip(rows, complaints, strict=True) if complaint]
    if wrong:
        more = f" (and {len(wrong) - 1} more rows have wrong options)" if len(wrong) > 1 else ""
        raise UserError(f"row {wrong[0][0].name}: {wrong[0][1]}{more}")


def _parser() -> Parser:
    """Return the parser of the sweep's own options; all others are those of ``vqlab fit``."""
    parser = Parser(
        prog="vqlab sweep",
        description="Run all rows of an experiment file, each an ordinary run. Options of vqlab fit go to every row.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("file", type=Path, help="an experiment file, such as configs/experiments/jsa_cifar10.yaml")
    parser.add_argument("--rows", metavar="A,B", help="only these rows; a name without its seed means all repeats")
    parser.add_argument("--jobs", type=int, default=1, help="rows at once; they share GPUs and cores (default 1)")
    parser.add_argument("--test", action="store_true", help="test each row on its best checkpoint when it is trained")
    parser.add_argument("--dry-run", action="store_true", help="check the options, print the calls, and stop")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all runs (default runs)")
    parser.add_argument(
        "--scale-steps",
        type=float,
        default=1.0,
        metavar="X",
        help="multiply by X every setting of the files that counts training steps, schedules and all: 0.1 is a tenth",
    )
    parser.add_argument(
        "--search", type=int, metavar="N", help="let Optuna search the file's space until N trials ended"
    )
    parser.add_argument("--slurm", type=Path, metavar="OUT.sh", help="write a SLURM job array, and stop")
    parser.add_argument("--wandb-yaml", type=Path, metavar="OUT.yaml", help="write a W&B sweep definition, and stop")
    return parser
