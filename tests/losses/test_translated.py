# SPDX-License-Identifier: Apache-2.0
"""Pairs made of translated CT: values by hand, the gate, and who learns."""

import pytest
import torch
from scripts.losses.translated import TranslatedPairsLoss, sharpness


def image(*rows):
    return torch.tensor(rows, dtype=torch.float32)[None, None]


CHESS = image([1, -1, 1, -1], [-1, 1, -1, 1])
HALVES = image([1, 1, -1, -1], [1, 1, -1, -1])


def test_sharpness_by_hand():
    # chessboard: every step is 2 along both axes; halves: one step of 2 in three along a row, none along a column
    torch.testing.assert_close(sharpness(torch.cat([CHESS, HALVES])), torch.tensor([4.0, 2 / 3]))
    torch.testing.assert_close(sharpness(5 * CHESS - 3), torch.tensor([4.0]))  # contrast does not matter
    assert sharpness(torch.ones(1, 1, 4, 4)).item() == 0


def test_a_blurred_translation_does_not_count():
    translated = torch.cat([CHESS, HALVES])
    restored = translated + torch.tensor([0.5, 100.0])[:, None, None, None]
    ct = torch.cat([CHESS, CHESS])
    loss = TranslatedPairsLoss(0.8)(restored, translated, ct)["mr"]
    torch.testing.assert_close(loss, torch.tensor(0.25))  # 0.5 of the sharp one, over two patches
    torch.testing.assert_close(TranslatedPairsLoss(0.1)(restored, translated, ct)["mr"], torch.tensor(50.25))
    assert TranslatedPairsLoss(1.1)(restored, translated, ct)["mr"].item() == 0


def test_only_the_restored_image_learns():
    restored, translated = HALVES.clone().requires_grad_(), CHESS.clone().requires_grad_()
    TranslatedPairsLoss(0.8)(restored, translated, CHESS)["mr"].backward()
    assert translated.grad is None
    # the sign of restored - translated over 8 pixels, where they differ
    torch.testing.assert_close(restored.grad, (HALVES - CHESS).sign() / 8)


def test_a_negative_bound_is_refused():
    with pytest.raises(ValueError, match="min_sharpness must be >= 0, got -1"):
        TranslatedPairsLoss(-1)
