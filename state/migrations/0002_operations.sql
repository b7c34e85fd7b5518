-- trace:database state
-- What operators ask for: which code leads, how long the stages of an attempt took, and repairs of what is published.
ALTER TABLE state.dispatcher ADD COLUMN build text NOT NULL DEFAULT ''; -- of the code that leads, as `trace_ray.build` names it

ALTER TABLE state.attempts ADD COLUMN seconds jsonb; -- durations of a successful attempt by stage

-- A withdrawn version was taken out of sight without a successor; its range is a gap until a repair publishes the next
-- generation. `reason` is for people.
ALTER TABLE state.dataset_versions ADD COLUMN withdrawn text;
