# SPDX-License-Identifier: Apache-2.0
"""Rows move only from where they are known to be."""

from __future__ import annotations

import sqlite3

import pytest

from thinslice.node.ledger import Ledger, State


@pytest.fixture
def ledger(tmp_path):
    now = [1000.0]
    one = Ledger(tmp_path / "state.sqlite", clock=lambda: now[0])
    one.now = now
    yield one
    one.close()


def test_of_two_who_move_a_row_one_succeeds(ledger):
    ledger.arrived("a", "s", 10)
    row = ledger.get("a")
    assert ledger.move(row, State.COMPLETE)
    assert not ledger.move(row, State.DEAD)
    assert ledger.get("a").state is State.COMPLETE


def test_work_on_fewer_images_is_not_taken_for_work_on_all(ledger):
    ledger.arrived("a", "s", 10)
    ledger.move(ledger.get("a"), State.RUNNING)
    row = ledger.get("a")
    ledger.arrived("a", "s", 5)
    ledger.move(ledger.get("a"), State.RUNNING)
    assert not ledger.move(row, State.PRODUCED, outputs='["a"]')
    assert ledger.get("a").bytes == 15


def test_what_is_written_is_there_for_others_before_the_call_returns(ledger, tmp_path):
    ledger.arrived("a", "s", 10)
    other = sqlite3.connect(tmp_path / "state.sqlite")
    assert other.execute("SELECT series, state FROM series").fetchall() == [("a", "received")]
    other.close()
    assert ledger.database.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


def test_only_a_row_that_is_being_received_can_end_well(ledger):
    ledger.arrived("a", "s", 1)
    ledger.ended(["a", "unknown"])
    assert ledger.get("a").unended == 0
    ledger.arrived("a", "s", 1)
    assert ledger.get("a").unended == 1


def test_a_start_looks_again_at_what_was_under_way(ledger):
    for name, state in (("a", State.RUNNING), ("b", State.COMPLETE), ("c", State.PRODUCED), ("d", State.DEAD)):
        ledger.arrived(name, "s", 1)
        ledger.move(ledger.get(name), state)
    assert ledger.recover() == 2
    assert [row.state for row in ledger.select()] == ["received", "received", "produced", "dead"]
    assert ledger.counts()[State.RECEIVED] == 2


def test_only_dead_letters_that_have_their_images_are_tried_again(ledger):
    ledger.arrived("a", "s", 1)
    assert ledger.retry("a") is None
    ledger.move(ledger.get("a"), State.DEAD, attempts=7)
    assert ledger.retry("a") is State.RECEIVED
    assert (ledger.get("a").attempts, ledger.get("a").unended) == (0, 0)
    ledger.move(ledger.get("a"), State.DEAD, outputs='["a"]')
    assert ledger.retry("a") is State.PRODUCED
    ledger.move(ledger.get("a"), State.DEAD, bytes=0)
    assert ledger.retry("a") is None
    assert ledger.retry("unknown") is None
