-- name: announce
-- A message for each of these versions that replaces another and belongs to an organisation that has alert rules, paused
-- ones too: their events stay.
INSERT INTO state.buffer_queue (message_id, queue, idempotency_key, payload, max_deliveries)
SELECT gen_random_uuid(), %(queue)s::text, %(queue)s::text || '/' || v.dataset_version,
  jsonb_build_object('dataset_version', v.dataset_version), %(max_deliveries)s::int
FROM state.dataset_versions v JOIN state.datasets d USING (dataset_uuid)
WHERE v.dataset_version = ANY(%(versions)b::uuid[]) AND v.generation > 0
  AND EXISTS (SELECT FROM state.rules r WHERE r.org_id = d.org_id)
ORDER BY v.dataset_version
ON CONFLICT (idempotency_key) DO NOTHING;

-- name: announce_late
-- A message for each visible version of a chain that overlaps a span and replaced another one. Visible versions of a
-- dataset do not overlap, so of those that start before the span only the last one can reach it.
INSERT INTO state.buffer_queue (message_id, queue, idempotency_key, payload, max_deliveries)
SELECT gen_random_uuid(), %(queue)s::text, %(queue)s::text || '/' || v.dataset_version || ':' || %(cause)s::text,
  jsonb_build_object('dataset_version', v.dataset_version), %(max_deliveries)s::int
FROM state.datasets d
CROSS JOIN LATERAL (
  (SELECT dataset_version, range_end, generation FROM state.dataset_versions o
   WHERE o.dataset_uuid = d.dataset_uuid AND o.replaced_snapshot IS NULL AND o.range_start < %(start)s::bigint
   ORDER BY o.range_start DESC LIMIT 1)
  UNION ALL
  SELECT dataset_version, range_end, generation FROM state.dataset_versions o
  WHERE o.dataset_uuid = d.dataset_uuid AND o.replaced_snapshot IS NULL
    AND o.range_start >= %(start)s::bigint AND o.range_start < %(end)s::bigint) v
WHERE d.org_id = %(org)s::uuid AND d.chain_id = %(chain)s::bigint AND v.range_end > %(start)s::bigint
  AND v.generation > 0
ORDER BY v.dataset_version
ON CONFLICT (idempotency_key) DO NOTHING;

-- name: shown
-- A version, while it is visible.
SELECT v.dataset_version, v.range_start, v.range_end, d.org_id, d.chain_id, d.name, d.cryo_dataset_name
FROM state.dataset_versions v JOIN state.datasets d USING (dataset_uuid)
WHERE v.dataset_version = %(version)s::uuid AND v.replaced_snapshot IS NULL;

-- name: showing
-- The visible versions that hold a block, one per dataset of a chain at the most: of blocks first, since they have every
-- block.
SELECT v.dataset_version, v.range_start, v.range_end, d.org_id, d.chain_id, d.name, d.cryo_dataset_name
FROM state.datasets d
CROSS JOIN LATERAL (
  SELECT * FROM state.dataset_versions o
  WHERE o.dataset_uuid = d.dataset_uuid AND o.replaced_snapshot IS NULL AND o.range_start <= %(block)s::bigint
  ORDER BY o.range_start DESC LIMIT 1) v
WHERE d.org_id = %(org)s::uuid AND d.chain_id = %(chain)s::bigint AND v.range_end > %(block)s::bigint
ORDER BY d.cryo_dataset_name <> 'blocks', v.row_count, d.name;

-- name: files
SELECT dataset_version, key, min_block, max_block, bytes, row_count
FROM state.dataset_files WHERE dataset_version = ANY(%(versions)b::uuid[]) ORDER BY dataset_version, position;
