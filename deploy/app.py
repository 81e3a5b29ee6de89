# SPDX-License-Identifier: Apache-2.0
"""MONAI Deploy application: a folder of MR scans in, thin-slice scans out.

    python app.py --input <folder> --output <folder> --model <the unpacked bundle>

In a MAP the three come from the environment (``HOLOSCAN_INPUT_PATH``, ``_OUTPUT_PATH``, ``_MODEL_PATH``). Ends with 0
if every scan has a result, 3 if one has none (a line on stderr says why), 4 if there is nothing to process.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from monai.deploy.conditions import CountCondition
from monai.deploy.core import AppContext, Application

__all__ = ["ThinSlicesApp"]


def bundle_folder(model_path: str) -> Path:
    """The folder of the bundle: the model folder itself, or the one bundle in it, as in a MAP.

    Raises:
        SystemExit: if there is none, or more than one.
    """
    root = Path(model_path)
    found = [p.parents[1] for pattern in ("", "*/") for p in root.glob(f"{pattern}configs/inference.json")]
    if len(found) != 1:
        raise SystemExit(f"--model must name the unpacked bundle, got {len(found)} bundles there; unzip the release")
    return found[0].resolve()


class ThinSlicesApp(Application):
    """Reader, bundle, writer."""

    def __init__(self, app_context: AppContext, bundle: Path, cases: Any) -> None:
        self.context = app_context
        self.bundle = bundle
        self.cases = cases
        self.failures = list(cases.refused)
        super().__init__()

    def compose(self) -> None:
        """Connect the operators."""
        # they import the bundle's package, which main has put on the path
        from operators import ReaderOperator, SuperResolutionOperator, WriterOperator

        cases = self.cases
        count = CountCondition(self, len(cases.items))
        shared = {"failures": self.failures}
        reader = ReaderOperator(self, count, cases=cases, name="reader", **shared)
        network = SuperResolutionOperator(
            self, app_context=self.context, bundle_path=self.bundle, name="super_resolution", **shared
        )
        writer = WriterOperator(
            self, output=Path(self.context.output_path), bundle_path=self.bundle, name="writer", **shared
        )
        self.add_flow(reader, network, {("image", "image")})
        self.add_flow(network, writer, {("pred", "pred")})


def main() -> int:
    """Run the application; returns the exit code."""
    context = Application.init_app_context(sys.argv)
    bundle = bundle_folder(context.model_path)
    context.models = None  # the SDK would load any folder as a model; here the operator loads the bundle
    sys.path[:0] = [str(bundle), str(Path(__file__).parent)]
    from scripts.data.cases import find_cases  # the bundle's package, whose location is known only now

    cases = find_cases(context.input_path)
    application = ThinSlicesApp(context, bundle, cases)
    if cases.items:
        application.run()
    for name, error in application.failures:
        print(f"{name}: {error}", file=sys.stderr)
    if not cases.items and not cases.refused:
        print(f"{context.input_path}: nothing to process; {cases.hint}", file=sys.stderr)
        return 4
    return 3 if application.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
