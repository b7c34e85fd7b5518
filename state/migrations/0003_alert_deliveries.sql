-- trace:database data
-- Waits longer after each failure in a row, up to the cap, times 0.5 to 1.5 by the seed; as state.backoff, which another
-- database may hold.
CREATE FUNCTION data.backoff(p_seed text, p_failures int, p_base interval, p_cap interval) RETURNS interval
LANGUAGE sql IMMUTABLE AS $$
  SELECT least(p_cap, p_base * (2 ^ least(greatest(p_failures, 1) - 1, 20)))
         * (0.5 + (hashtextextended(p_seed, p_failures) & 1023) / 1023.0)
$$;

-- One event on its way to one channel. What a receiver is told of it never changes; what the rule said about sending when
-- the event was accepted is kept with it.
CREATE TABLE data.alert_deliveries (
  delivery_id uuid PRIMARY KEY,
  org_id uuid NOT NULL,
  event_id uuid NOT NULL REFERENCES data.alert_events,
  channel text NOT NULL,
  kind text NOT NULL CHECK (kind IN ('alert', 'retraction')),
  retracts uuid REFERENCES data.alert_deliveries,
  rule_id uuid NOT NULL,
  rule text NOT NULL,
  max_age interval,
  throttle_count int CHECK (throttle_count > 0),
  throttle_per interval,
  state text NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'sending', 'delivered', 'dead', 'suppressed')),
  reason text,                        -- why it is suppressed
  attempt int NOT NULL DEFAULT 0,     -- how often it was leased
  failures int NOT NULL DEFAULT 0,    -- since it was made or put back
  replays int NOT NULL DEFAULT 0,
  lease_token uuid,
  due_at timestamptz NOT NULL DEFAULT now(), -- queued: when it may be sent; sending: when its lease ends
  first_sent_at timestamptz,          -- its first lease: what a throttle counts
  in_doubt boolean NOT NULL DEFAULT false,   -- an attempt failed after which it may have been received all the same
  retracted boolean NOT NULL DEFAULT false,  -- the block of its event is gone
  last_error text,
  created_at timestamptz NOT NULL DEFAULT now(),
  settled_at timestamptz,
  UNIQUE (event_id, channel, kind),
  CHECK ((state = 'sending') = (lease_token IS NOT NULL)),
  CHECK ((state = 'suppressed') = (reason IS NOT NULL)),
  CHECK ((state IN ('delivered', 'dead', 'suppressed')) = (settled_at IS NOT NULL)),
  CHECK ((kind = 'retraction') = (retracts IS NOT NULL)),
  CHECK ((throttle_count IS NULL) = (throttle_per IS NULL))
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_cost_delay = 0);
CREATE INDEX deliveries_due ON data.alert_deliveries (channel, due_at, delivery_id) WHERE state = 'queued';
CREATE INDEX deliveries_sending ON data.alert_deliveries (due_at) WHERE state = 'sending'; -- leases that may have ended
CREATE INDEX deliveries_throttled ON data.alert_deliveries (rule_id, channel, first_sent_at) WHERE first_sent_at IS NOT NULL;
CREATE INDEX deliveries_by_org ON data.alert_deliveries (org_id, state, created_at DESC);
