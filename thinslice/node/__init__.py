# SPDX-License-Identifier: Apache-2.0
"""A DICOM node: it receives series, makes them thin with the batch, and sends the derived series on (docs/node.md).

``receiver`` stores what arrives, ``ledger`` remembers the state of every series, ``clerk`` decides when one is
complete, ``workshop`` processes it, ``sender`` sends the result, ``monitor`` shows the state, ``node`` starts them all.
"""
