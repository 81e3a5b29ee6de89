# SPDX-License-Identifier: Apache-2.0
"""The made-up patient: one anatomy as MR and as CT, in NIfTI or DICOM, for demo, tests and benchmarks.

It is never used to train shipped weights.
"""

import thinslice  # noqa: F401  puts the bundle on the path, in a checkout and in a wheel

from .anatomy import TISSUES, Anatomy, make_anatomy
from .patient import Patient, make_patient

__all__ = ["TISSUES", "Anatomy", "Patient", "make_anatomy", "make_patient"]
