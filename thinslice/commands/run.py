# SPDX-License-Identifier: Apache-2.0
"""``thinslice IN [OUT]``: super-resolve scans."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..screen import LOG, Screen, fail
from ..settings import parse_settings

__all__ = ["command"]


def command(
    scan: Annotated[
        Path, typer.Argument(metavar="IN", help="A NIfTI file, a DICOM series, or a folder with any of them.")
    ],
    output: Annotated[Path, typer.Argument(metavar="[OUT]", help="Folder for the results.", show_default=True)] = Path(
        "thinslice_out"
    ),
    spacing: Annotated[
        str | None, typer.Option(help="Slice spacing of the result in mm, or 'isotropic'.", metavar="MM")
    ] = None,
    report: Annotated[bool, typer.Option("--report", help="Also write report.html, with pictures.")] = False,
    dicom: Annotated[bool, typer.Option("--dicom", help="Also write derived DICOM series.")] = False,
    guide_ct: Annotated[
        Path | None,
        typer.Option(help="A CT of the same person, as a guide; needs weights that take one.", metavar="CT"),
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda:0 or mps; by default a GPU if there is one.")] = None,
    exact: Annotated[
        bool,
        typer.Option("--exact", help="Compute in float32 with PyTorch instead of the quickest engine that is as good."),
    ] = False,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="ID=VALUE", help="Set any id of inference.json.")
    ] = None,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Show messages of libraries.")] = False,
) -> None:
    """Super-resolve scans. This is what `thinslice IN [OUT]` does."""
    ids = parse_settings(settings or [])
    if spacing is not None:
        ids["target_spacing_mm"] = _spacing(spacing)
    if device is not None:
        ids["device"] = device
    if guide_ct is not None:
        ids["guide_ct"] = str(guide_ct)
    if not scan.exists():
        fail(f"IN must exist, got {scan}; correct the path")
    if output.exists() and not output.is_dir():
        fail(f"OUT must be a folder, got the file {output}; give another path")
    if (report or dicom) and ids.get("guide_ct") is not None:
        fail("--guide-ct must be given without --report and --dicom, got both; leave these out")
    if report or dicom:
        from ..archive import run_batch

        raise typer.Exit(run_batch(scan, output, {f"inference::{name}": v for name, v in ids.items()}, exact, verbose))
    from ..inference import run_scans

    try:
        output.mkdir(parents=True, exist_ok=True)
        with Screen.quiet(None if verbose else output / LOG) as screen:
            code = run_scans(scan, output, ids, exact, screen)
    except OSError as error:
        fail(f"OUT must be a folder that can be written to, got {error.strerror} for {output}; give another path")
    raise typer.Exit(code)


def _spacing(text: str) -> float | str:
    if text == "isotropic":
        return text
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        fail(f"--spacing must be a number of mm above 0 or 'isotropic', got {text!r}; for example --spacing 1.0")
    return value
