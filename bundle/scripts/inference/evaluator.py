# SPDX-License-Identifier: Apache-2.0
"""Run every case in isolation: a scan that fails gets a line with the reason, and the others get their results."""

from __future__ import annotations

import logging
import sys
import time
import traceback
from typing import Any

import torch
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator
from torch.utils.data import Subset
from tqdm import tqdm

from ..data.cases import Cases
from ..reasons import CaseError, Reason

__all__ = ["CaseEvaluator", "case_error"]


def case_error(error: BaseException) -> CaseError:
    """The reason behind an exception that a transform, an engine or a library has raised.

    Only messages of :class:`CaseError` are known to hold no patient data. For any other exception, the message gives
    its type and place instead of its text.
    """
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, CaseError):
            return link
        # the CPU allocator of torch raises a plain RuntimeError
        if isinstance(link, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(link):
            return CaseError(Reason.OOM, "memory must suffice; lower batch_pixels, or use a machine with more")
        link = link.__cause__ or link.__context__
    cause = error
    while cause.__cause__ is not None:  # MONAI wraps once per transform and once per Compose
        cause = cause.__cause__
    # MONAI's SaveImage hides the exception of its writer and raises this message instead
    if isinstance(cause, OSError) or "cannot find a suitable writer" in str(cause):
        what = cause.strerror if isinstance(cause, OSError) else "an error"
        return CaseError(Reason.UNWRITABLE, f"output_dir must be writable with space left, got {what}; make room")
    place = traceback.extract_tb(cause.__traceback__)[-1]
    return CaseError(
        Reason.INTERNAL, f"{type(cause).__name__} in {place.name}, line {place.lineno} of {place.filename}"
    )


class CaseEvaluator(SupervisedEvaluator):
    """:class:`SupervisedEvaluator` that isolates its cases.

    Args:
        cases: the scans that were found; refused ones are reported together with those that fail here.
        val_data_loader: loader over the data set of ``cases.items``, with batch size 1.
        progress: show a progress bar over the cases.
        evaluator: further arguments of :class:`SupervisedEvaluator`.

    Attributes:
        failures: ``(case, error)`` of every scan without a result, after :meth:`run`.
    """

    def __init__(self, cases: Cases, val_data_loader: DataLoader, progress: bool = True, **evaluator: Any) -> None:
        super().__init__(val_data_loader=val_data_loader, epoch_length=1, **evaluator)
        self.cases = cases
        self.progress = progress
        self.dataset = val_data_loader.dataset
        self.failures: list[tuple[str, CaseError]] = []
        self.logger.setLevel(logging.CRITICAL)  # ignite would log every refusal with its traceback
        self.log = logging.getLogger(type(self).__name__)

    def run(self, global_epoch: int = 1) -> None:
        """Process all cases; an error of one case never raises."""
        for name, error in self.cases.skipped:
            self.log.info("%s is left out: %s", name, error)
        self.failures = list(self.cases.refused)
        items = self.cases.items
        for index, item in enumerate(
            tqdm(items, desc="cases", unit="case", disable=None if self.progress and len(items) > 1 else True)
        ):
            started = time.perf_counter()
            try:
                self.run_one(index, global_epoch)
            except Exception as error:  # whatever it is, the next case must run
                self.failures.append((str(item["case"]), case_error(error)))
            else:
                self.log.info("%s done in %.1f s", item["case"], time.perf_counter() - started)
            finally:
                self.state.output = self.state.batch = None

    def run_one(self, index: int, global_epoch: int = 1) -> None:
        """Process one case.

        Raises:
            Exception: any error of the case; :func:`case_error` gives its reason.
        """
        self.data_loader = DataLoader(Subset(self.dataset, [index]), batch_size=1, num_workers=0)
        # ignite 0.5.5 keeps the exhausted generator of a run that ended in an exception: the next run would do nothing
        self._internal_run_generator = None
        super().run(global_epoch)
        if self.state.iteration != 1:
            raise RuntimeError(f"one case must take one iteration, got {self.state.iteration}")

    @property
    def exit_code(self) -> int:
        """Exit code: 0 all done, 3 some scan without result, 4 nothing to process."""
        if not self.cases.items and not self.failures:
            return 4
        return 3 if self.failures else 0

    def raise_for_failures(self) -> None:
        """Print one line for each failure and end the process with :attr:`exit_code`, unless that is 0.

        Raises:
            SystemExit: with the exit code.
        """
        for name, error in self.failures:
            print(f"{name}: {error}", file=sys.stderr)
        if self.exit_code == 4:
            print(f"{self.cases.location}: nothing to process; {self.cases.hint}", file=sys.stderr)
        if self.exit_code:
            raise SystemExit(self.exit_code)
