# SPDX-License-Identifier: Apache-2.0
"""All three stages, one after the other, each by its own command; started again, it goes on where it stopped."""

from __future__ import annotations

import argparse
from pathlib import Path

from tools.curves import draw_curves, read_curves
from tools.run_bundle import accept_overrides, bundle_command, run_bundle

STAGE_3_LENGTH = 8  # the paper: stages end at T, 2 T, 10 T


def main() -> None:
    """Run them; a stage whose ``OUT/stageN.pt`` is there and whose length has not grown costs a few seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ct", type=Path, required=True)
    parser.add_argument("--mr", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--iterations", type=int, required=True, metavar="T", help="stage 3 has 8 T")
    parser.add_argument("--stages", type=int, nargs="*", default=(1, 2, 3), choices=(1, 2, 3))
    parser.add_argument("--configs", nargs="*", default=[], help="override files, for example smoke.json")
    accept_overrides(parser)
    arguments = parser.parse_args()
    output = arguments.output.resolve()
    ids = dict(arguments.set)
    for stage in arguments.stages:
        configs = ["common.json", f"train_stage{stage}.json", *arguments.configs]
        settings = {
            "ct_dir": arguments.ct.resolve(),
            "mr_dir": arguments.mr.resolve(),
            "output_dir": output,
            "stage_iterations": arguments.iterations * (STAGE_3_LENGTH if stage == 3 else 1),
            **{
                key: value for key, value in ids.items() if stage == 3 or not key.startswith(("lambda_", "perceptual_"))
            },
        }
        print(" ".join(bundle_command(configs, "training", **settings)), flush=True)
        run_bundle(configs, "training", **settings)
    draw_curves(read_curves(output / "tensorboard"), output / "curves.png")
    print(f"curves: {output / 'curves.png'}\nweights: {output / f'stage{arguments.stages[-1]}.pt'}")


if __name__ == "__main__":
    main()
