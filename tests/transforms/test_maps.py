# SPDX-License-Identifier: Apache-2.0
import torch
from scripts.transforms.maps import SplitMapsd


def test_channels_become_keys_in_order():
    channels = torch.arange(3.0).reshape(3, 1, 1, 1).expand(3, 4, 5, 6)
    data = SplitMapsd("pred", ["disagreement", "error"])({"pred": channels})
    assert {key: (value.shape, float(value.mean())) for key, value in data.items()} == {
        "pred": ((1, 4, 5, 6), 0.0), "disagreement": ((1, 4, 5, 6), 1.0), "error": ((1, 4, 5, 6), 2.0),
    }  # fmt: skip
    assert list(SplitMapsd("pred", [])({"pred": channels[:1]})) == ["pred"]
