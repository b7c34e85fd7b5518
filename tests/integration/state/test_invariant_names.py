"""The 25 invariants of the ledger are tested by number and name, each in one place."""

import re
from pathlib import Path

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


def test_each_invariant_has_one_test_of_its_number_and_name() -> None:
    text = "".join(path.read_text() for path in HERE.glob("test_*.py"))
    wanted = [f"test_{number:02}_{name}" for number, name in enumerate(INVARIANTS, 1)]
    defined = re.findall(r"^def (test_\d\d_\w+)\(", text, re.MULTILINE)
    assert len(wanted) == 25
    assert {name: defined.count(name) for name in wanted} == dict.fromkeys(wanted, 1)
