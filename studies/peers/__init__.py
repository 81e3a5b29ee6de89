# SPDX-License-Identifier: Apache-2.0
"""The methods that the table compares with, one per file, each written anew from its paper.

What all have in common, so that the rows differ in the method and in nothing else:

* a method sees a :class:`studies.peers.scan.Scan`: thick slices on their native grid, in the bundle's unit range,
  and knows the operator that made them;
* it returns thin slices on the grid of :mod:`scripts.geometry`; nothing is resampled afterwards;
* training ends when its budget of processor seconds is spent (:func:`studies.peers.training.train_within`);
* networks that see slices are run by the bundle's own inferer: both orientations, averaged, no self-ensemble.
"""
