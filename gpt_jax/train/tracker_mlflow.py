"""MLflow as a tracker."""

import os
import time
from typing import Any

import mlflow
from mlflow.entities import Metric, Param

from gpt_jax.core.config_fields import flatten_config
from gpt_jax.train.trackers import PROJECT, TrackedRun

MAX_PARAM_SIZE = 500  # characters of a parameter's value that every MLflow server takes
MAX_BATCH_SIZE = 100  # parameters in one request


class MlflowTracker:
    """Logs to MLflow: the config as parameters, the sweep as the tag `sweep`.

    MLflow would show a step twice that is logged twice, so its last step is read from the service.
    """

    def __init__(self, run: TrackedRun):
        self._client = mlflow.MlflowClient()
        self.run_id = run.run_id or self._create(run)
        self._client.update_run(self.run_id, status='RUNNING')
        latest = self._client.get_run(self.run_id).data.to_proto().metrics
        steps = [metric.step for metric in latest if not metric.key.startswith('summary/')]
        self.last_step = max(steps, default=-1)
        self._status = 'KILLED'

    def _create(self, run: TrackedRun) -> str:
        experiment = mlflow.set_experiment(os.environ.get('MLFLOW_EXPERIMENT_NAME', PROJECT))
        tags = {'sweep': run.group} if run.group else {}
        created = self._client.create_run(experiment.experiment_id, tags=tags, run_name=run.name)
        run_id: str = created.info.run_id
        params = [
            Param(name, str(value)[:MAX_PARAM_SIZE]) for name, value in flatten_config(run.config)
        ]
        for first in range(0, len(params), MAX_BATCH_SIZE):
            self._client.log_batch(run_id, params=params[first : first + MAX_BATCH_SIZE])
        return run_id

    def log(self, step: int, values: dict[str, float]) -> None:
        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self.run_id, metrics=metrics)
        self.last_step = step

    def finish(self, summary: dict[str, Any]) -> None:
        self._status = 'FINISHED'
        numbers = {
            f'summary/{name}': value
            for name, value in summary.items()
            if isinstance(value, int | float)
        }
        self.log(self.last_step, numbers)

    def close(self) -> None:
        self._client.set_terminated(self.run_id, self._status)
