# SPDX-License-Identifier: Apache-2.0
"""Diffusion weighting of one image, from the standard's attributes or from the vendors' own."""

from __future__ import annotations

from pydicom.dataset import Dataset

from .values import finite_of, text_of, vector_of, vendor_numbers

__all__ = ["DIFFUSION_TAGS", "diffusion_weighting"]

# word in Manufacturer: element that holds the b-value, elements that hold the three components of the direction
VENDORS: dict[str, tuple[int, tuple[int, ...]]] = {
    "SIEMENS": (0x0019100C, (0x0019100E,)),
    "GE ": (0x00431039, (0x001910BB, 0x001910BC, 0x001910BD)),
    "PHILIPS": (0x20011003, (0x200510B0, 0x200510B1, 0x200510B2)),
    "UIH": (0x00651009, (0x00651037,)),
}
DIFFUSION_TAGS = tuple(tag for b_value, gradient in VENDORS.values() for tag in (b_value, *gradient))
GE_FLAG = 10**9  # GE adds this to the b-value in sequences with several b-values
LARGEST_B_VALUE = 10**5  # a larger number is not a b-value


def diffusion_weighting(ds: Dataset) -> tuple[float | None, tuple[float, ...] | None]:
    """The b-value in s/mm2, and the direction of the gradient; None if it is not stated, or if the direction is 0.

    The direction only serves to tell images apart, so its coordinate system does not matter.
    """
    b_value, gradient = finite_of(ds, "DiffusionBValue"), _gradient(ds)
    manufacturer = text_of(ds, "Manufacturer").upper() + " "
    for word, (b_tag, gradient_tags) in VENDORS.items():
        if word not in manufacturer:
            continue
        if b_value is None and (stated := vendor_numbers(ds, b_tag)):
            b_value = stated[0] % GE_FLAG
        gradient = gradient or vendor_numbers(ds, *gradient_tags)
    if b_value is not None and not 0 <= b_value < LARGEST_B_VALUE:
        b_value = None
    if gradient is None or len(gradient) != 3 or not any(gradient):
        return b_value, None
    return b_value, tuple(round(component, 4) + 0.0 for component in gradient)


def _gradient(ds: Dataset) -> tuple[float, ...] | None:
    """Direction from the standard's attribute, which multi-frame objects keep in a separate sequence."""
    for item in (ds, *(ds.get("DiffusionGradientDirectionSequence") or ())):
        if gradient := vector_of(item, "DiffusionGradientOrientation", 3):
            return gradient
    return None
