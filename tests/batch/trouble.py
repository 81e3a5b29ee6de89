# SPDX-License-Identifier: Apache-2.0
"""A transform that does to a worker what a bad day does, to the series that ask for it by their slice spacing."""

from __future__ import annotations

import os
import signal
import time

import numpy as np
import torch
from monai.transforms import MapTransform

# slice spacing in mm: what happens; see SPACING in test_trouble.py
HANG, CRASH, EAT, RAISE, SLOW = 7, 8, 9, 10, 11


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
        return data
