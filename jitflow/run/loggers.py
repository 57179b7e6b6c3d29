"""Loggers of a run's curves that outlast a full disk: what cannot be written is a warning, and the training goes on."""

from __future__ import annotations

import csv
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from jitflow.errors import ConfigError
from jitflow.io.csv_file import iter_csv_rows
from jitflow.io.files import atomic_path, writable_folder

log = logging.getLogger(__name__)


class RunCSVLogger(CSVLogger):
    """Write training curves to ``metrics.csv``; rows that a full disk refuses are kept until there is room."""

    _is_failing = False

    @rank_zero_only
    def save(self) -> None:
        """Append the new rows to the file; after an error of the disk it is as it was."""
        path = Path(self.experiment.metrics_file_path)
        existed, size = path.is_file(), None
        try:
            self._add_columns(path)
            size = path.stat().st_size if existed else None
            super().save()
            self._is_failing = False
        except OSError as error:
            if size is not None:
                os.truncate(path, size)
            elif not existed:
                path.unlink(missing_ok=True)
            if not self._is_failing:
                _warn(error)
            self._is_failing = True

    def _add_columns(self, path: Path) -> None:
        """Give the file the columns of new values; Lightning would empty it first and write it again in place."""
        writer = self.experiment
        columns = sorted(set(writer.metrics_keys).union(*writer.metrics))
        if columns == writer.metrics_keys or not path.is_file():
            return
        rows = list(iter_csv_rows(path, most_columns=len(columns)))
        with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, fieldnames=columns)
            table.writeheader()
            table.writerows(rows)
        writer.metrics_keys = columns


class RunTensorBoardLogger(TensorBoardLogger):
    """Write training curves for TensorBoard; after an error of the disk, another file once there is room."""

    _is_failing = False

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log values of a step; between an error of the disk and the next save they are left out."""
        if not self._is_failing:
            with self._errors_of_the_disk():
                super().log_metrics(metrics, step)

    def save(self) -> None:
        """Flush the event file; begin another one if the last could not be written."""
        if self._is_failing:
            try:
                writable_folder(self.log_dir)
            except ConfigError:
                return
            # TensorBoard's writer accepts nothing after an error.
            self._experiment = None
        with self._errors_of_the_disk():
            super().save()
            self._is_failing = False

    def finalize(self, status: str) -> None:
        """Close the event file at the end of the training."""
        with self._errors_of_the_disk():
            super().finalize(status)

    @contextmanager
    def _errors_of_the_disk(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            # Lightning's logger turns every error of a value into a ValueError.
            cause = error if isinstance(error, OSError) else error.__cause__
            if not isinstance(cause, OSError):
                raise
            if not self._is_failing:
                _warn(cause)
            self._is_failing = True


def _warn(error: OSError) -> None:
    log.warning("the curves could not be logged (%s); training continues", error.strerror or error)


@contextmanager
def log_threads_without_tracebacks() -> Iterator[None]:
    """Print no traceback when TensorBoard's thread cannot write curves: the next call of the logger raises its error.

    Everything else that a thread raises is reported as before.
    """
    report = threading.excepthook

    def report_others(failed: Any) -> None:
        is_of_log = type(failed.thread).__module__.startswith(("tensorboard.", "tensorboardX."))
        if not (is_of_log and isinstance(failed.exc_value, OSError)):
            report(failed)

    threading.excepthook = report_others
    try:
        yield
    finally:
        threading.excepthook = report
