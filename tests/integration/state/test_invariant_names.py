"""The 25 rules of the ledger are tested by name, and no statement of a Dispatcher escapes the fence."""

import re
from pathlib import Path

from state.db import statements

HERE = Path(__file__).parent
INVARIANTS = (
    "claim_is_exclusive", "ranges_tile_exactly", "plan_is_idempotent", "plan_is_atomic", "plan_respects_inflight",
    "task_id_collision_aborts", "stale_complete_rejected", "wrong_token_rejected", "late_reply_accepted_until_reclaim",
    "duplicate_complete_is_noop", "complete_is_atomic", "accepted_attempt_is_last", "attempts_gapless",
    "heartbeat_cannot_resurrect", "reaper_vs_complete_race", "max_failures_dead_letters", "replay_from_dead",
    "backoff_bounded_and_jittered", "epoch_fences_zombie_dispatcher", "restart_loses_nothing",
    "outbox_no_skip_out_of_order", "outbox_redelivery_is_harmless", "poison_to_dead_letters", "ack_needs_receipt",
    "claim_plan_uses_index",
)  # fmt: skip
WRITES = re.compile(rb"\b(UPDATE|INSERT|DELETE)\b")
UNFENCED = {  # by order of an operator, by a consumer with its receipt, or after a fenced statement of the transaction
    "tasks": {"take_over", "cancel", "replay", "add_files", "replace"},
    "jobs": {
        "save_organisation", "save_job", "free_names", "save_datasets", "save_streams", "disable_streams",
        "set_enabled", "add_ranges", "lock_organisation",
    },
    "outbox": {"append", "replay", "put_back"},
}  # fmt: skip


def test_each_invariant_has_a_test_of_its_number_and_name() -> None:
    text = "".join(path.read_text() for path in HERE.glob("test_*.py"))
    missing = [
        f"test_{number:02}_{name}"
        for number, name in enumerate(INVARIANTS, 1)
        if f"def test_{number:02}_{name}(" not in text
    ]
    assert missing == []


def test_every_other_write_of_the_ledgers_proves_its_epoch() -> None:
    for ledger, free in UNFENCED.items():
        writing = {name for name, text in statements(ledger).items() if WRITES.search(text)}
        fenced = {name for name, text in statements(ledger).items() if b"%(epoch)s" in text}
        assert writing - fenced <= free, ledger
