-- trace:database state
-- What operators ask for: which code leads, how long the stages of an attempt took, and repairs of what is published.
ALTER TABLE state.dispatcher ADD COLUMN build text NOT NULL DEFAULT ''; -- of the code that leads, as `trace_ray.build` names it

ALTER TABLE state.attempts ADD COLUMN seconds jsonb; -- durations of a successful attempt by stage

-- A withdrawn version was taken out of sight without a successor; its range is a gap until a repair publishes the next
-- generation. `reason` is for people.
ALTER TABLE state.dataset_versions ADD COLUMN withdrawn text;
CREATE INDEX versions_withdrawn ON state.dataset_versions (dataset_uuid, range_start) WHERE withdrawn IS NOT NULL;

-- One row: who this ledger is, and where the objects of its versions lie. An object store carries the id of its ledger, so
-- that no other ledger sweeps it.
CREATE TABLE state.ledger (
  only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
  ledger_id uuid NOT NULL DEFAULT gen_random_uuid(),
  object_store text
);
INSERT INTO state.ledger DEFAULT VALUES;
