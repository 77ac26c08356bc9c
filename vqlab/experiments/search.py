"""Search of a space of options by Optuna, in a SQLite file that several processes and machines may share."""

import json
import logging
import warnings
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from vqlab.errors import UserError
from vqlab.experiments.experiment import Experiment
from vqlab.experiments.metrics_log import best_of, log_or_empty
from vqlab.experiments.row_lock import row_lock
from vqlab.experiments.run_state import LOG
from vqlab.experiments.runner import Runner, Status, refuse_conflicts
from vqlab.experiments.settings import mode_of, monitor_of
from vqlab.experiments.status import align

BEAT, SILENCE = 20, 90  # seconds between signs of life of a trial, and until one that gives none is taken up by others
WAIT = 2.0  # seconds between two looks at what others do
BOUNDS = {"low", "high", "log", "step"}


class RowFailed(Exception):
    """The run of a trial failed, or left nothing to judge it by."""


def search(experiment: Experiment, trials: int, runner: Runner, pool: Executor) -> str:
    """Run trials until there are ``trials`` that ended, those of other processes and of before counted; tabulate them.

    Each trial is an ordinary row, judged by the best value of the metric that decides which checkpoint is best. One
    that was interrupted is taken up again where it stopped.

    Args:
        experiment: Whose space is searched.
        trials: How many trials there shall be.
        runner: Runs a row.
        pool: Where its jobs run.

    Raises:
        UserError: If the experiment has no space, or Optuna is not installed.
    """
    space = check_space(experiment)
    optuna = import_optuna()
    settings = experiment.row("", {}).settings
    monitor, mode = monitor_of(settings), mode_of(settings)
    stem = experiment.path.stem
    database = experiment.runs / f"{stem}.search.db"
    with row_lock(experiment.runs, wait=True):  # SQLite's tables are made by one process
        storage = open_storage(optuna, database)
        study = optuna.create_study(study_name=stem, storage=storage, direction=f"{mode}imize", load_if_exists=True)
    begun = [trial for trial in study.trials if "row" in trial.user_attrs and trial.params.keys() == space.keys()]
    refuse_conflicts(experiment, [experiment.row(trial.user_attrs["row"], trial.params) for trial in begun])

    def objective(study: Any, trial: Any, entered: Callable[[], None]) -> float:
        entered()
        study.sampler = optuna.samplers.TPESampler(seed=trial.number)  # what it draws depends on its number alone
        try:
            options = {name: suggest(trial, name, choice) for name, choice in space.items()}
        except ValueError as error:  # a list of choices cannot change
            raise UserError(
                f"the space of {experiment.path} is not that of {database}: remove it to begin anew"
            ) from error
        name = trial.user_attrs.get("row", f"{stem}_trial{trial.number:04d}")
        trial.set_user_attr("row", name)
        row = experiment.row(name, options)
        while (outcome := runner.run(row)).status is Status.ELSEWHERE:  # left behind by a sweep that was killed
            runner.stopping.wait(WAIT)
        if outcome.status is Status.STOPPED:
            take_up_again(study, trial)
            raise KeyboardInterrupt
        series = [] if outcome.error else log_or_empty(experiment.folder(row) / LOG).series.get(monitor, [])
        if (best := best_of(series, mode)) is None:
            trial.set_user_attr("error", outcome.error or f"{monitor} is not logged")
            raise RowFailed
        return best[1]

    def work() -> None:
        study = optuna.load_study(study_name=stem, storage=storage, sampler=optuna.samplers.TPESampler(seed=0))
        while count(study, has_ended) < trials:
            with ExitStack() as door:  # through which one goes at a time, or two begin the last trial
                door.enter_context(row_lock(experiment.runs, wait=True))
                if count(study, has_ended) + count(study, is_under_way) < trials:
                    study.optimize(partial(objective, study, entered=door.close), n_trials=1, catch=(RowFailed,))
                    continue
            optuna.storages.fail_stale_trials(study)  # there is nothing to do, unless what others do is left behind
            if runner.stopping.wait(WAIT):
                return

    for future in [pool.submit(work) for _ in range(min(runner.jobs, trials))]:
        future.result()
    return tabulate(optuna.load_study(study_name=stem, storage=storage), monitor, mode)


def import_optuna() -> Any:
    """Return Optuna, quiet."""
    try:
        import optuna
    except ImportError as error:
        raise UserError("a search needs Optuna: pip install 'vqlab[search]'") from error
    optuna.logging.set_verbosity(logging.CRITICAL)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)  # signs of life are marked so
    return optuna


def open_storage(optuna: Any, path: Path) -> Any:
    """Return the SQLite file that keeps a study."""
    return optuna.storages.RDBStorage(
        f"sqlite:///{path}",
        engine_kwargs={"connect_args": {"timeout": 100}},  # seconds to wait for another process that writes
        heartbeat_interval=BEAT,
        grace_period=SILENCE,
        heartbeat_stale_trial_callback=take_up_again,
    )


def take_up_again(study: Any, trial: Any) -> None:
    """Queue a trial that was interrupted, under the name of its row, so that its checkpoint is found."""
    study.enqueue_trial(trial.params, user_attrs=trial.user_attrs)


def has_ended(trial: Any) -> bool:
    """Whether a trial came to an end, good or bad; one that was interrupted did not, and is queued again."""
    return trial.state.name == "COMPLETE" or "error" in trial.user_attrs


def is_under_way(trial: Any) -> bool:
    """Whether a trial runs, as far as the study knows."""
    return trial.state.name == "RUNNING"


def count(study: Any, kind: Callable[[Any], bool]) -> int:
    """Return how many trials of a study are of a kind."""
    return sum(map(kind, study.trials))


def suggest(trial: Any, name: str, choice: Any) -> Any:
    """Return the trial's value of an option."""
    if isinstance(choice, list):
        return trial.suggest_categorical(name, choice)
    bounds = dict(choice)
    whole = all(type(value) is int for key, value in bounds.items() if key != "log")
    return (trial.suggest_int if whole else trial.suggest_float)(name, bounds.pop("low"), bounds.pop("high"), **bounds)


def check_space(experiment: Experiment) -> dict[str, Any]:
    """Return the space with its bounds as numbers.

    Raises:
        UserError: If there is none, or an option's choice is neither a list nor bounds.
    """
    if not experiment.space:
        raise UserError(
            f"{experiment.path} has no space to search: add space: {{model.lr: {{low: 1.0e-4, high: 1.0e-2}}}}"
        )
    return {name: _check_choice(f"{name} in space of {experiment.path}", c) for name, c in experiment.space.items()}


def first_choice(choice: Any) -> Any:
    """Return one value of an option in a space."""
    return choice[0] if isinstance(choice, list) else choice["low"]


def _check_choice(where: str, choice: Any) -> Any:
    if isinstance(choice, list) and choice:
        return [json.dumps(value) if isinstance(value, (list, dict)) else value for value in choice]
    if not isinstance(choice, dict) or not {"low", "high"} <= choice.keys() <= BOUNDS:
        raise UserError(f"{where} must be a list, or low and high, with log or step if need be: {{low: 8, high: 64}}")
    try:  # YAML 1.1 reads 1e-4 as text
        bounds = {key: float(value) if isinstance(value, str) else value for key, value in choice.items()}
        good = bounds["low"] < bounds["high"] and not (bounds.get("log") and (bounds["low"] <= 0 or "step" in bounds))
    except (TypeError, ValueError):
        good = False
    if not good:
        raise UserError(f"{where} must have numbers low < high, and low > 0 and no step with log: got {choice}")
    return bounds


def tabulate(study: Any, monitor: str, mode: str) -> str:
    """Return the trials that ended, the best first."""
    options = sorted({name for trial in study.trials for name in trial.params})
    ended = list(filter(has_ended, study.trials))
    ended.sort(
        key=lambda trial: (
            trial.value is None,
            0 if trial.value is None else trial.value * (1 if mode == "min" else -1),
        )
    )
    lines = [("row", "status", f"best {monitor}", *options)]
    for trial in ended:
        value = "-" if trial.value is None else f"{trial.value:.5g}"
        params = [f"{p:.4g}" if isinstance(p := trial.params.get(name, "-"), float) else str(p) for name in options]
        lines.append((trial.user_attrs["row"], "failed" if trial.value is None else "finished", value, *params))
    return align(lines)
