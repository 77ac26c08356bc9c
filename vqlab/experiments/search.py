"""Search of a space of options by Optuna; its SQLite file may be shared by several processes and machines."""

import json
import logging
from concurrent.futures import Executor
from typing import Any

from vqlab.errors import UserError
from vqlab.experiments.experiment import Experiment, Row
from vqlab.experiments.metrics_log import best_of, log_or_empty
from vqlab.experiments.row_lock import is_running, row_lock
from vqlab.experiments.run_state import LOG
from vqlab.experiments.runner import Outcome, Runner, Status, refuse_conflicts
from vqlab.experiments.settings import mode_of, monitor_of
from vqlab.experiments.tables import align

WAIT = 2.0  # seconds before a worker that has nothing to do looks for a trial again
BOUNDS = {"low", "high", "log", "step"}


class Search:
    """Runs trials until ``trials`` have ended, including those of other processes and of earlier calls.

    Each trial is an ordinary row; its value is the best value of the metric that decides which checkpoint is best. A
    trial that was interrupted is resumed: Optuna lists it as running, but no process holds the lock of its folder.

    Args:
        experiment: The experiment with the space.
        trials: Number of trials.
        runner: Runs a row.

    Raises:
        UserError: If the experiment has no space, or Optuna is not installed.
    """

    def __init__(self, experiment: Experiment, trials: int, runner: Runner) -> None:
        self.experiment, self.trials, self.runner = experiment, trials, runner
        self.space, self.optuna = check_space(experiment), import_optuna()
        settings = experiment.row("", {}).settings
        self.monitor, self.mode = monitor_of(settings), mode_of(settings)
        self.database = experiment.runs / f"{experiment.path.stem}.search.db"
        self.at_work: set[int] = set()  # numbers of the trials of this process

    def run(self, pool: Executor) -> str:
        """Run the trials in the threads of ``pool``; return a table of them."""
        with row_lock(self.experiment.runs, wait=True):  # one process creates the tables
            study = self.open_study()
        begun = [t for t in study.trials if "row" in t.user_attrs and t.params.keys() == self.space.keys()]
        refuse_conflicts(self.experiment, list(map(self.row_of, begun)))
        for future in [pool.submit(self.work) for _ in range(min(self.runner.jobs, self.trials))]:
            future.result()
        return tabulate(study, self.monitor, self.mode)

    def open_study(self) -> Any:
        """Return the study in the database, which is created if there is none."""
        storage = self.optuna.storages.RDBStorage(
            f"sqlite:///{self.database}",
            engine_kwargs={"connect_args": {"timeout": 100}},  # seconds to wait for another process that writes
        )
        name, direction = self.experiment.path.stem, f"{self.mode}imize"
        return self.optuna.create_study(study_name=name, storage=storage, direction=direction, load_if_exists=True)

    def row_of(self, trial: Any) -> Row:
        """Return the row of a trial."""
        return self.experiment.row(trial.user_attrs["row"], trial.params)

    def work(self) -> None:
        """Run trials one after the other until enough have ended."""
        study = self.open_study()
        while len(ended_trials(study)) < self.trials and not self.runner.stopping.is_set():
            with row_lock(self.experiment.runs, wait=True):  # one process or thread chooses at a time
                trial = self.next_trial(study)
                if trial is not None:
                    self.at_work.add(trial.number)
            outcome = Outcome(Status.ELSEWHERE) if trial is None else self.runner.run(self.row_of(trial))
            if outcome.status is Status.ELSEWHERE:
                self.runner.stopping.wait(WAIT)
            elif outcome.status is not Status.STOPPED:
                self.tell(study, trial, outcome)
            if trial is not None:
                self.at_work.discard(trial.number)

    def next_trial(self, study: Any) -> Any:
        """Return a trial that was interrupted, or a new one; None while there is nothing to do."""
        under_way = [trial for trial in study.trials if trial.state.name == "RUNNING"]
        for trial in under_way:
            if "row" not in trial.user_attrs:  # its process was killed in ``ask``
                study.tell(trial.number, state=self.optuna.trial.TrialState.FAIL)
            elif trial.number not in self.at_work and not is_running(self.experiment.folder(self.row_of(trial))):
                return trial
        return self.ask(study) if len(ended_trials(study)) + len(under_way) < self.trials else None

    def ask(self, study: Any) -> Any:
        """Return a new trial with a value of each option."""
        study.sampler = self.optuna.samplers.TPESampler(seed=len(study.trials))  # so a trial depends on its number
        trial = study.ask()
        try:
            for name, choice in self.space.items():
                suggest(trial, name, choice)
        except ValueError as error:  # the choices of a list cannot change
            study.tell(trial, state=self.optuna.trial.TrialState.FAIL)
            raise UserError(
                f"the space of {self.experiment.path} is not that of {self.database}: remove it to start again"
            ) from error
        trial.set_user_attr("row", f"{self.experiment.path.stem}_trial{trial.number:04d}")
        return trial

    def tell(self, study: Any, trial: Any, outcome: Outcome) -> None:
        """Store the value of a trial, or that it failed."""
        row = self.row_of(trial)
        log = log_or_empty(self.experiment.folder(row) / LOG)
        best = best_of(log.series.get(self.monitor, []), self.mode)
        if best is None and not outcome.error:
            print(f"{row.name}: {self.monitor} is not logged", flush=True)
        value = best[1] if best and not outcome.error else None
        state = self.optuna.trial.TrialState.FAIL if value is None else None
        with row_lock(self.experiment.runs, wait=True):  # another process may have found it finished, too
            study.tell(trial.number, value, state, skip_if_finished=True)


def import_optuna() -> Any:
    """Return Optuna, quiet."""
    try:
        import optuna
    except ImportError as error:
        raise UserError("a search needs Optuna: pip install 'vqlab[search]'") from error
    optuna.logging.set_verbosity(logging.CRITICAL)
    return optuna


def ended_trials(study: Any) -> list[Any]:
    """Return the trials with a value and those whose row failed."""
    return [trial for trial in study.trials if trial.state.is_finished() and "row" in trial.user_attrs]


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
        UserError: If there is none, or the choice of an option is neither a list nor bounds.
    """
    path = experiment.path
    if not experiment.space:
        raise UserError(f"{path} has no space to search: add space: {{model.lr: {{low: 1.0e-4, high: 1.0e-2}}}}")
    return {name: _check_choice(f"{name} in space of {path}", choice) for name, choice in experiment.space.items()}


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
    sign = 1 if mode == "min" else -1
    lines = [("row", "status", f"best {monitor}", *options)]
    for trial in sorted(ended_trials(study), key=lambda t: (t.value is None, sign * (t.value or 0))):
        value = "-" if trial.value is None else f"{trial.value:.5g}"
        params = [f"{p:.4g}" if isinstance(p := trial.params.get(name, "-"), float) else str(p) for name in options]
        lines.append((trial.user_attrs["row"], "failed" if trial.value is None else "finished", value, *params))
    return "\n".join(align(lines))
