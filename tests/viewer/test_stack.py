# SPDX-License-Identifier: Apache-2.0
"""Places of the acquired slices against values worked out by hand."""

import numpy as np
import pytest

from tests.conftest import make_affine
from thinslice.viewer.stack import compare_grids


def test_four_thin_slices_for_each_acquired_one():
    # 5 slices of 4 mm at z = 0, 4, ..., 16; 20 thin ones of 1 mm over the same slab start at z = -1.5
    thick, thin = make_affine([1, 1, 4], origin=(0, 0, 0)), make_affine([1, 1, 1], origin=(0, 0, -1.5))
    stack = compare_grids(thick, (8, 9, 5), thin, (8, 9, 20), 3.0)
    assert stack.thick_axis == 2
    assert stack.centres == pytest.approx([1.5, 5.5, 9.5, 13.5, 17.5])
    assert (stack.acquired_spacing_mm, stack.result_spacing_mm, stack.slice_thickness_mm) == (4, 1, 3)
    assert stack.result_slices == 20


def test_any_spacing_and_any_direction():
    # 4 slices 3.3 mm apart along the first axis, towards the back; thin ones every 1.2 mm from another start
    thick = np.array([[0, 1.1, 0, 5], [-3.3, 0, 0, 40], [0, 0, 0.9, -7], [0, 0, 0, 1.0]])
    thin = np.array([[0, 1.1, 0, 5], [-1.2, 0, 0, 41], [0, 0, 0.9, -7], [0, 0, 0, 1.0]])
    stack = compare_grids(thick, (4, 6, 7), thin, (11, 6, 7))
    assert stack.thick_axis == 0
    assert stack.centres == pytest.approx([1 / 1.2, 4.3 / 1.2, 7.6 / 1.2, 10.9 / 1.2])
    assert stack.slice_thickness_mm is None
    # the world point of the third slice's centre, back in thin coordinates
    back = np.asarray(stack.world_to_result) @ thick @ [2, 1, 1, 1]
    assert back[:3] == pytest.approx([7.6 / 1.2, 1, 1])


@pytest.mark.parametrize("thin", [
    (make_affine([1, 1, 1], rotate=(0, 0, 3)), (8, 9, 20)),
    (make_affine([2, 1, 1]), (8, 9, 20)),
    (make_affine([1, 1, 1]), (8, 10, 20)),
    (make_affine([1, 1, 1], origin=(0, 0, 0)), (8, 9, 20)),
])  # fmt: skip
def test_a_result_of_another_scan_is_refused(thin):
    with pytest.raises(ValueError, match="must share the in-plane grid"):
        compare_grids(make_affine([1, 1, 4]), (8, 9, 5), *thin)
