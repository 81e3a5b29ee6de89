# SPDX-License-Identifier: Apache-2.0
"""Custom components of the bundle; the package name is fixed by MONAI Label."""

import os
import sys

# ONNX Runtime and OpenVINO report their use to their makers as soon as they are imported. No hospital has agreed to
# that, and ONNX Runtime has crashed whole processes by it (onnxruntime issue 32173).
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # as if it were not installed
