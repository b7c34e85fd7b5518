"""What the ledger holds, for comparisons before and after."""

from tests.integration.state.ledger import Ledger

EVERYTHING = (
    b"SELECT (SELECT jsonb_agg(t ORDER BY task_id) FROM state.tasks t) AS tasks,"
    b" (SELECT jsonb_agg(r ORDER BY task_id) FROM state.ranges r) AS ranges,"
    b" (SELECT jsonb_agg(a ORDER BY task_id, attempt) FROM state.attempts a) AS attempts,"
    b" (SELECT jsonb_agg(v) FROM state.dataset_versions v) AS versions,"
    b" (SELECT jsonb_agg(f) FROM state.dataset_files f) AS files,"
    b" (SELECT jsonb_agg(d) FROM state.datasets d) AS datasets,"
    b" (SELECT jsonb_agg(s) FROM state.snapshots s) AS snapshots,"
    b" (SELECT jsonb_agg(c ORDER BY stream_id) FROM state.cursors c) AS cursors,"
    b" (SELECT jsonb_agg(h ORDER BY rpc_pool) FROM state.heads h) AS heads,"
    b" (SELECT jsonb_agg(d) FROM state.dispatcher d) AS dispatcher,"
    b" (SELECT jsonb_agg(o ORDER BY id) FROM state.outbox o) AS outbox"
)

# Rows as Postgres stores them: `xmin` and `ctid` change even when a write leaves every value as it was.
STORED_TASKS = b"SELECT xmin::text, ctid::text, t::text FROM state.tasks t ORDER BY task_id"

NOTHING = {"tasks": 0, "ranges": 0, "attempts": 0, "versions": 0, "files": 0, "events": 0, "snapshot": 0}
ONE = dict.fromkeys(NOTHING, 1)


def effects(ledger: Ledger) -> dict[str, object]:
    """Count what one completion must bring about once."""
    (row,) = ledger.rows(
        b"SELECT (SELECT count(*) FROM state.tasks WHERE state = 'succeeded') AS tasks,"
        b" (SELECT count(*) FROM state.ranges WHERE done) AS ranges,"
        b" (SELECT count(*) FROM state.attempts WHERE outcome = 'succeeded') AS attempts,"
        b" (SELECT count(*) FROM state.dataset_versions) AS versions,"
        b" (SELECT count(*) FROM state.dataset_files) AS files,"
        b" (SELECT count(*) FROM state.events WHERE topic = 'dataset.published') AS events,"
        b" (SELECT max(snapshot) FROM state.datasets) AS snapshot"
    )
    return row


def times(count: int) -> dict[str, object]:
    """Return the effects of that many completions."""
    return dict.fromkeys(NOTHING, count)
