-- Statements that analysts write, one per line; the gate must accept every one and the engine must run it.
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
from devnet_blocks
from devnet_blocks select block_number where block_number > 3
table devnet_blocks
select distinct from_address from devnet_transactions
select distinct on (from_address) from_address, block_number from devnet_transactions order by from_address, block_number
select * exclude (logs_bloom, extra_data) from devnet_blocks
select * replace (gas_used / 1000 as gas_used) from devnet_blocks
select * rename (gas_used as gas) from devnet_blocks
select columns('.*_hash') from devnet_blocks
select max(columns(* exclude (block_hash, parent_hash, author, transactions_root, receipts_root, extra_data, logs_bloom))) from devnet_blocks
select columns(c -> c like 'gas%') from devnet_transactions
pivot devnet_transactions on transaction_type in (0, 2) using count(*) group by block_number
select * from devnet_transactions pivot (count(*) for transaction_type in (0, 2) group by block_number)
select * from (select block_number, gas_used, chain_id from devnet_blocks) unpivot (v for n in (gas_used, chain_id))
select * from devnet_blocks asof join devnet_transactions on devnet_blocks.block_number >= devnet_transactions.block_number limit 2
select * from devnet_blocks positional join devnet_logs limit 2
select * from devnet_blocks semi join devnet_transactions using (block_number)
select * from devnet_blocks anti join devnet_transactions using (block_number)
select * from devnet_blocks natural join devnet_transactions limit 1
select * from devnet_blocks b cross join (values (1), (2)) v(n) limit 2
select b.block_number, x.n from devnet_blocks b, lateral (select b.block_number + 1 as n) x limit 2
select * from devnet_blocks tablesample reservoir(10 rows) repeatable (1)
select * from devnet_blocks using sample 10%
select * from generate_series(1, 3) t(n)
select unnest([1, 2, 3]) as n
select * from unnest(['a', 'b']) with ordinality
select * from json_each('{"a": 1, "b": [2]}')
select block_number from devnet_blocks union select block_number from devnet_logs order by 1 limit 3
select block_number from devnet_blocks except select block_number from devnet_logs
select block_number from devnet_blocks intersect all select block_number from devnet_logs
select 1 as a union all by name select 2 as b
with recursive r(n) as (select 1 union all select n + 1 from r where n < 5) select sum(n) from r
with a as materialized (select 1 as x), b as not materialized (select x + 1 as x from a) select * from a, b
with devnet_logs as (select 1 as shadow) select shadow from devnet_logs
select (select max(block_number) from devnet_blocks) - block_number from devnet_blocks limit 1
select 5 in (select block_number from devnet_blocks), 5 = any (select block_number from devnet_blocks), 5 > all (select 4)
select array(select block_number from devnet_blocks order by 1 limit 3)
select [n * 2 for n in range(5) if n > 2]
select list_transform([1, 2, 3], lambda n: n + 1), list_filter([1, 2, 3], n -> n > 1), list_reduce([1, 2], lambda a, b: a + b)
select {'a': 1, 'b': [1, 2]} as s, {'a': 1}.a, map {'k': 1}['k'], [1, 2, 3][2:3], row(1, 'x')
select cast('12' as int), try_cast('x' as int), '2024-01-01'::date, 1::hugeint, 1.5::decimal(10, 2), 'a'::varchar collate nocase
select interval 1 day + date '2024-01-01', date_diff('day', date '2024-01-01', date '2024-02-01'), extract(year from date '2024-01-01')
select timestamp '2024-01-01 10:00:00' at time zone 'UTC', strftime(timestamp '2024-01-01', '%Y'), epoch(timestamp '2024-01-01')
select now() is not null, current_date is not null, today() is not null
select coalesce(null, 1), ifnull(null, 2), nullif(1, 1), greatest(1, 2), least(1, 2), if(true, 1, 2)
select 'abc' like 'a%', 'abc' ilike 'A%', 'abc' similar to 'a.c', regexp_matches('abc', 'b'), 'abc' glob 'a*'
select substring('abc' from 2 for 1), position('b' in 'abc'), trim(both ' ' from ' a '), upper('a') || lower('B')
select 5 % 2, 5 // 2, 2 ** 3, 7 & 3, 7 | 8, 1 << 4, -5, +5, @(-5), not true, 1 <> 2, 1 is distinct from 2
select j -> 'a', j ->> 'a', j -> '$.b[0]' from (select '{"a": 1, "b": [2]}'::json as j)
select json_extract_string('{"a": "x"}', '$.a'), to_json([1, 2]), json_group_array(n) from range(2) t(n)
select sum(distinct gas_used), count(distinct author), string_agg(block_number::varchar, ',' order by block_number desc) from devnet_blocks
select mode(gas_used), median(gas_used), stddev(gas_used), corr(gas_used, block_number), regr_slope(gas_used, block_number) from devnet_blocks
select histogram(transaction_type) from devnet_transactions
select bit_count(5::tinyint), md5('a'), sha256('a'), hash(1) is not null, to_base64('a'::blob)
select first_value(gas_used order by block_number) over () from devnet_blocks
select first_value(gas_used) over w, last_value(gas_used ignore nulls) over w, ntile(4) over w from devnet_blocks window w as (order by block_number)
select count(*) over (order by block_number range between 5 preceding and unbounded following exclude current row) from devnet_blocks
select block_number from devnet_blocks order by block_number desc nulls last limit 10 offset 5
select block_number from devnet_blocks order by all limit 10%
select block_number from devnet_blocks limit (select 3) offset (select 1)
select #1, #2 from devnet_blocks
select 'https://example.com' as url
select '; drop table devnet_blocks; --' as text
select 1;
select 1; -- nothing
select 'x' || '00', '0xff', 10
-- a comment before
/* inside */ select /* and here */ 1 -- after
select 1 as "load", 2 as "set", 3 as "call", 4 as "into", 5 as "copy", 6 as "attach"
select "load" from (select 1 as "load")
select 'read_text(''/etc/passwd'')' as text
select a.b from (select {'b': 1} as a)
select DEVNET_BLOCKS.Block_Number from Devnet_Blocks where BLOCK_NUMBER in (1, 2, 3)
select count(*) from devnet_blocks where (block_number, chain_id) in ((1, 31337))
select count(*), sum(gas_used)::varchar from devnet_blocks where block_number >= 10 and block_number < 20 or block_number = 3
select typeof(block_hash), pg_typeof(block_number), version() from devnet_blocks limit 1
select * from (select 1 as x) as t(y)
select try(1 / 0), error is null from (select null as error)
select user is not null, session_user is not null
select count(*) from devnet_blocks where gas_used < 170141183460469231731687303715884105727
(select 1) union all (select 2)
values (1, 'a'), (2, 'b')
