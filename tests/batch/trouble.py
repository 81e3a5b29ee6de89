# SPDX-License-Identifier: Apache-2.0
"""A transform that does to a worker what a bad day does, to the series that ask for it by their slice spacing."""

from __future__ import annotations

import os
import resource
import signal
import time

import numpy as np
import torch
from monai.transforms import MapTransform

# slice spacing in mm: what happens; see test_trouble.py
HANG, CRASH, EAT, RAISE, SLOW, FULL = 7, 8, 9, 10, 11, 12


class Troubled(MapTransform):
    def __call__(self, data):
        spacing = round(float(np.asarray(data["image"].meta["working_spacing_mm"])[2]))
        if spacing == HANG:
            time.sleep(600)
        elif spacing == CRASH:
            os.kill(os.getpid(), signal.SIGSEGV)
        elif spacing == EAT:
            self.hoard = [torch.ones(2**26) for _ in range(1000)]
        elif spacing == RAISE:
            raise ValueError(f"quotes {data['image'].meta}")
        elif spacing == SLOW:
            time.sleep(0.5)
        elif spacing == FULL:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that a write fails with an error, as on a full disk
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        return data
