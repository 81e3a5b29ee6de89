# SPDX-License-Identifier: Apache-2.0
"""The made-up patient: one anatomy, seen by MR and by CT, as NIfTI or DICOM. For demo, tests and benchmarks.

Never used to train shipped weights.
"""

import tools  # noqa: F401  puts bundle/ on the path

from .anatomy import TISSUES, Anatomy, make_anatomy
from .patient import Patient, make_patient

__all__ = ["TISSUES", "Anatomy", "Patient", "make_anatomy", "make_patient"]
