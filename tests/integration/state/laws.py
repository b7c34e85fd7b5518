"""What must hold in a ledger at every commit, as queries that find what breaks it."""

from typing import Final

from state.db import Connection, Row

LAWS: Final = {
    "an accepted attempt is the last one of its task": b"""
        SELECT a.task_id, a.attempt FROM state.attempts a JOIN state.tasks t USING (task_id)
        WHERE a.outcome = 'succeeded' AND (a.attempt <> t.attempt OR t.state <> 'succeeded')""",
    "attempts count from 1 without a gap": b"""
        SELECT t.task_id, t.attempt, a.numbers FROM state.tasks t CROSS JOIN LATERAL (
          SELECT coalesce(array_agg(attempt ORDER BY attempt), '{}') AS numbers FROM state.attempts
          WHERE task_id = t.task_id) a
        WHERE a.numbers <> ARRAY(SELECT generate_series(1, t.attempt))""",
    "a succeeded task has exactly one succeeded attempt": b"""
        SELECT t.task_id FROM state.tasks t
        LEFT JOIN state.attempts a ON a.task_id = t.task_id AND a.outcome = 'succeeded'
        WHERE t.state = 'succeeded' GROUP BY t.task_id HAVING count(a) <> 1""",
    "an attempt is open exactly while its task runs it": b"""
        SELECT a.task_id, a.attempt FROM state.attempts a JOIN state.tasks t USING (task_id)
        WHERE (a.outcome IS NULL) <> (t.state = 'running' AND t.attempt = a.attempt)
           OR (a.outcome IS NULL) <> (a.ended_at IS NULL)""",
    "epochs never fall along the attempts of a task": b"""
        SELECT a.task_id, a.attempt FROM state.attempts a
        JOIN state.attempts b ON b.task_id = a.task_id AND b.attempt = a.attempt + 1 WHERE b.epoch < a.epoch""",
    "succeeded task, done range and one version belong together": b"""
        SELECT t.task_id FROM state.tasks t
        JOIN state.ranges r USING (task_id)
        LEFT JOIN state.dataset_versions v ON v.task_id = t.task_id AND v.attempt = t.attempt
          AND v.range_start = t.range_start AND v.range_end = t.range_end
        GROUP BY t.task_id, t.state, r.done
        HAVING (t.state = 'succeeded') <> r.done OR count(v) <> r.done::int""",
    "a range is dead exactly when its task is": b"""
        SELECT t.task_id FROM state.tasks t JOIN state.ranges r USING (task_id)
        WHERE r.dead <> (t.state IN ('dead', 'cancelled'))""",
    "a version belongs to a succeeded attempt": b"""
        SELECT v.dataset_version FROM state.dataset_versions v
        LEFT JOIN state.attempts a ON a.task_id = v.task_id AND a.attempt = v.attempt
        WHERE a.outcome IS DISTINCT FROM 'succeeded'""",
    "visible versions of a dataset do not overlap": b"""
        SELECT a.dataset_version FROM state.dataset_versions a JOIN state.dataset_versions b USING (dataset_uuid)
        WHERE a.dataset_version <> b.dataset_version AND a.replaced_snapshot IS NULL AND b.replaced_snapshot IS NULL
          AND a.range_start < b.range_end AND b.range_start < a.range_end""",
    "files hold the rows of their version": b"""
        SELECT v.dataset_version FROM state.dataset_versions v LEFT JOIN state.dataset_files f USING (dataset_version)
        GROUP BY v.dataset_version, v.row_count HAVING coalesce(sum(f.row_count), 0) <> v.row_count""",
    "snapshots are numbered from 1 without a gap": b"""
        SELECT s.org_id FROM state.snapshots s
        CROSS JOIN LATERAL (
          SELECT count(*) AS count, coalesce(max(published_snapshot), 0) AS newest,
            count(DISTINCT published_snapshot) AS numbers
          FROM state.dataset_versions v JOIN state.datasets d USING (dataset_uuid) WHERE d.org_id = s.org_id) v
        WHERE v.count <> v.numbers OR v.newest <> s.newest OR v.count <> s.newest""",
    "ranges tile from the first block to the cursor": b"""
        SELECT c.stream_id FROM state.cursors c JOIN state.streams s USING (stream_id) JOIN state.jobs j USING (job_id)
        CROSS JOIN LATERAL (
          SELECT coalesce(sum(range_end - range_start), 0) AS blocks,
            coalesce(max(range_end), j.from_block) AS last_end, coalesce(min(range_start), j.from_block) AS first_start,
            count(*) FILTER (WHERE NOT EXISTS (
              SELECT FROM state.ranges n WHERE n.stream_id = r.stream_id AND n.range_start = r.range_end)) AS ends
          FROM state.ranges r WHERE r.stream_id = c.stream_id) r
        WHERE r.first_start <> j.from_block OR r.last_end <> c.next_block OR r.blocks <> c.next_block - j.from_block
           OR r.ends > 1""",
}


def broken(conn: Connection, *laws: str) -> dict[str, list[Row]]:
    """Return each broken law with what breaks it, of these laws or of all."""
    found = {law: conn.execute(LAWS[law]).fetchall() for law in laws or LAWS}
    return {law: rows for law, rows in found.items() if rows}
