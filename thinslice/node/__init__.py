# SPDX-License-Identifier: Apache-2.0
"""A DICOM node: receives series, has the bundle's batch make them thin, sends the derived series on (docs/node.md).

``receiver`` stores what arrives, ``ledger`` remembers the state of every series, ``clerk`` decides when one is
complete, ``workshop`` has it done, ``sender`` sends it, ``monitor`` shows how things are, ``node`` starts them all.
"""
