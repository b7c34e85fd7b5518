-- What analysts ask about a chain, one statement per line; the gate accepts each and the answer is DuckDB's own.
select * from devnet_blocks limit 5
select count(*) from devnet_transactions
select min(block_number), max(block_number) from devnet_blocks
select block_number, gas_used from devnet_blocks where block_number between 10 and 20 order by block_number
select block_number, count(*) as n from devnet_transactions group by block_number order by n desc, block_number limit 10
select '0x' || lower(hex(block_hash)) as hash from devnet_blocks where block_number = 7
select to_timestamp("timestamp") as at, block_number from devnet_blocks order by block_number desc limit 3
select date_trunc('hour', to_timestamp("timestamp")) as hour, sum(gas_used) as gas from devnet_blocks group by hour order by hour
select from_address, count(*) as sent, sum(value_string::hugeint) as wei from devnet_transactions group by from_address order by wei desc limit 20
select hex(to_address) as contract, count(*) from devnet_transactions where to_address is not null group by all having count(*) > 1
select count(*) filter (where success) * 100.0 / count(*) as success_rate from devnet_transactions
select b.block_number, b.gas_used, count(t.transaction_hash) as txs from devnet_blocks b left join devnet_transactions t using (block_number) group by all order by 1
select t.transaction_hash, l.log_index, l.address from devnet_transactions t join devnet_logs l on l.transaction_hash = t.transaction_hash where t.block_number < 5
select hex(topic0) as event, count(*) as n from devnet_logs group by topic0 order by n desc
select address, count(distinct block_number) as blocks from devnet_logs group by address
select * from devnet_logs where address = unhex('5fbdb2315678afecb367f032d93f642f64180aa3')
select block_number, gas_price, row_number() over (partition by block_number order by gas_price desc) as place from devnet_transactions
select * from devnet_transactions qualify row_number() over (partition by block_number order by gas_price desc) = 1
select block_number, gas_used, avg(gas_used) over (order by block_number rows between 9 preceding and current row) as moving from devnet_blocks
select block_number, gas_used - lag(gas_used) over (order by block_number) as change from devnet_blocks order by block_number
select approx_quantile(gas_price, 0.5) as median, quantile_cont(gas_price, [0.1, 0.9]) as tails from devnet_transactions
with busy as (select block_number from devnet_transactions group by 1 having count(*) > 2) select b.* from devnet_blocks b join busy using (block_number)
with senders as (select distinct from_address as a from devnet_transactions), receivers as (select distinct to_address as a from devnet_transactions) select count(*) from senders where a not in (select a from receivers where a is not null)
select block_number from devnet_blocks b where not exists (select 1 from devnet_transactions t where t.block_number = b.block_number)
select range as missing from range(0, 60) where range not in (select block_number from devnet_blocks)
select case when gas_used = 0 then 'empty' when gas_used < 1000000 then 'light' else 'full' end as load, count(*) from devnet_blocks group by 1
select transaction_type, sum(gas_used) as gas from devnet_transactions group by cube (transaction_type) order by all
select from_address, to_address, sum(value_string::decimal(38, 0)) as wei from devnet_transactions group by grouping sets ((from_address), (to_address), ())
select max_by(transaction_hash, gas_price), arg_min(block_number, gas_price) from devnet_transactions
select block_number, list(transaction_index order by transaction_index) as indexes from devnet_transactions group by block_number limit 4
select substr(hex("input"), 1, 8) as selector, count(*) from devnet_transactions where octet_length("input") >= 4 group by 1 order by 2 desc
select (('0x' || substr(hex(data), 49, 16))::ubigint) as low from devnet_logs where octet_length(data) = 32 limit 3
select chain_id, any_value(block_number) from devnet_blocks group by chain_id
select block_number, count(*) as n from devnet_logs group by block_number having count(*) > 1 order by n desc, block_number limit 10
select author, count(*) as blocks, sum(gas_used) as gas from devnet_blocks group by author order by blocks desc, author
select block_number, base_fee_per_gas * gas_used as burned from devnet_blocks order by burned desc, block_number limit 10
select sum(base_fee_per_gas::hugeint * gas_used) / 1e18 as ether_burned from devnet_blocks
select b.block_number, b."timestamp" - p."timestamp" as seconds from devnet_blocks b join devnet_blocks p on b.block_number = p.block_number + 1 order by 1
select avg(seconds), max(seconds) from (select "timestamp" - lag("timestamp") over (order by block_number) as seconds from devnet_blocks)
select count(*) from devnet_blocks b left join devnet_blocks p on b.parent_hash = p.block_hash where p.block_hash is null and b.block_number > 0
select '0x' || lower(hex(from_address)) as sender, max(nonce) + 1 as sent from devnet_transactions group by from_address order by sent desc
select '0x' || lower(hex(transaction_hash)) as hash from devnet_transactions where to_address is null order by block_number limit 10
select '0x' || lower(hex("input"[1:4])) as selector, count(*) as calls, sum(gas_used) as gas from devnet_transactions where octet_length("input") >= 4 group by 1 order by calls desc
select count(*) as failed from devnet_transactions where not success
select block_number, sum(gas_used * gas_price) / 1e18 as fees from devnet_transactions group by block_number order by fees desc, block_number limit 5
select quantile_cont(gas_price / 1e9, [0.25, 0.5, 0.75]) as gwei from devnet_transactions where block_number >= 30
select block_number, min(gas_price), max(gas_price), avg(gas_price) from devnet_transactions where block_number between 20 and 29 group by all order by all
select to_address, count(distinct from_address) as users from devnet_transactions where to_address is not null group by to_address order by users desc, to_address
select sum(value_string::decimal(38, 0)) / 1e18 as ether, count(*) from devnet_transactions where value_string <> '0'
select transaction_type, count(*) as n, round(100.0 * count(*) / sum(count(*)) over (), 2) as percent from devnet_transactions group by transaction_type order by n desc
select l.address, count(distinct l.transaction_hash) as transactions from devnet_logs l group by l.address order by transactions desc
select hex(topic0) as event, hex(address) as contract, min(block_number) as first_seen, max(block_number) as last_seen from devnet_logs group by all order by all
select block_number, log_index, '0x' || lower(right(hex(topic1), 40)) as sender from devnet_logs where topic1 is not null order by 1, 2 limit 10
select t.block_number, t.transaction_index, count(l.log_index) as logs from devnet_transactions t left join devnet_logs l using (block_number, transaction_index) group by all order by logs desc, 1, 2 limit 10
select count(*) from devnet_transactions t anti join devnet_logs l using (transaction_hash)
with daily as (select to_timestamp("timestamp")::date as day, count(*) as blocks from devnet_blocks group by 1) select day, blocks, sum(blocks) over (order by day) as so_far from daily order by day
select gas_used // 10000 as bucket, count(*) from devnet_blocks group by all order by all
with arrivals as (select from_address, min(block_number) as block from devnet_transactions group by 1) select block, count(*) as new_senders from arrivals group by block order by block
select block_number, transaction_index, gas_used * 100.0 / gas_limit as used from devnet_transactions order by used desc, block_number, transaction_index limit 10
select a.block_number from generate_series(0, 65) a(block_number) left join devnet_blocks b using (block_number) where b.block_number is null order by 1
select arg_max('0x' || lower(hex(transaction_hash)), gas_used * gas_price) as dearest, max(gas_used * gas_price) / 1e18 as fee from devnet_transactions
select block_number, string_agg('0x' || lower(hex(transaction_hash[29:])), ', ' order by transaction_index) as hashes from devnet_transactions group by block_number order by block_number limit 3
select block_number, max_priority_fee_per_gas, gas_price - max_priority_fee_per_gas as base from devnet_transactions where transaction_type = 2 order by block_number, transaction_index limit 5
