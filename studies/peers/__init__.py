# SPDX-License-Identifier: Apache-2.0
"""The methods with which the table compares, one per file, each written from its paper.

The rows differ only in the method. All methods have this in common:

* The input is a :class:`studies.peers.scan.Scan`: thick slices on their native grid, in the bundle's unit range, with
  the operator that made them.
* The result is thin slices on the grid of :mod:`scripts.geometry`. Nothing is resampled afterwards.
* Training ends when its budget of processor seconds is spent (:func:`studies.peers.training.train_within`).
* Networks for slices are run by the bundle's own inferer: both orientations, averaged, without a self-ensemble.
"""
