-- What DuckDB can do in one SELECT, one statement per line; the gate accepts each and the answer is DuckDB's own.
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
select b.block_number, t.transaction_index from devnet_blocks b asof join (from devnet_transactions where transaction_index = 1) t on b.block_number >= t.block_number
select * from devnet_blocks positional join devnet_logs limit 2
select * from devnet_blocks semi join devnet_transactions using (block_number)
select * from devnet_blocks anti join devnet_transactions using (block_number)
select * from devnet_blocks natural join devnet_transactions limit 1
select * from devnet_blocks b cross join (values (1), (2)) v(n) limit 2
select b.block_number, x.n from devnet_blocks b, lateral (select b.block_number + 1 as n) x limit 2
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
select * from (values (1, 'a'), (2, 'b')) t(n, s) where s like 'b'
select unnest({'a': 1, 'b': 2}), unnest([{'c': 3}, {'c': 4}], recursive := true)
select unnest([[1, 2], [3]], max_depth := 2)
select * from generate_series(timestamp '2024-01-01', timestamp '2024-01-02', interval 6 hour)
select * from json_tree('{"a": {"b": [1, 2]}}')
select a.n, b.n from range(3) a(n) full outer join range(1, 5) b(n) on a.n = b.n order by all
select n from range(3) a(n) right join range(1, 5) b(n) using (n) order by all
select n from range(10) t(n) where n between 2 and 5 or n in (7, 9) order by n desc
select n, sum(n) over w as running, rank() over w, dense_rank() over w, percent_rank() over w, cume_dist() over w from range(5) t(n) window w as (order by n)
select n, nth_value(n, 2) over (order by n rows between unbounded preceding and unbounded following) from range(5) t(n)
select n, lead(n, 2, -1) over (order by n), lag(n) over (order by n desc) from range(5) t(n) order by n
select n, count(*) over (order by n groups between 1 preceding and 1 following exclude ties) from (values (1), (1), (2), (3)) t(n) order by n
select n, sum(n) filter (n % 2 = 0) over (order by n) from range(6) t(n)
select n % 3 as k, list(n order by n desc), array_agg(distinct n % 2 order by n % 2), first(n order by n), last(n order by n) from range(9) t(n) group by k order by k
select grouping(a), grouping_id(a, b), a, b, count(*) from (values (1, 2), (1, 3)) t(a, b) group by rollup (a, b) order by all
select a, b, sum(c) from (values (1, 2, 3), (1, 3, 4)) t(a, b, c) group by grouping sets ((a), (a, b), ()) order by all
select count(*), count(n), sum(n), avg(n), min(n), max(n), product(n), bool_and(n > 0), bit_or(n) from range(1, 5) t(n)
select arg_max(n, -n, 2), max(n, 3), min(n, 2), approx_count_distinct(n) from range(9) t(n)
select kurtosis(n), skewness(n), var_pop(n), stddev_samp(n), entropy(n), mad(n), geomean(n + 1) from range(20) t(n)
select regr_intercept(y, x), regr_r2(y, x), covar_pop(y, x), corr(y, x) from (values (1, 2.0), (2, 4.1), (3, 6.2)) t(x, y)
select histogram(n, [2, 4]), quantile_disc(n, [0.1, 0.9]), mode(n % 3 = 0), percentile_cont(0.3) within group (order by n) from range(10) t(n)
select [1, 2, 3] || [4], list_contains([1, 2], 2), list_position([1, 2], 2), [3, 1, 2].list_sort(), list_reverse_sort([1, 3, 2])
select list_slice([1, 2, 3, 4], 2, 3), [1, 2, 3, 4][-1], [1, 2, 3, 4][:2], [1, 2, 3, 4][1:4:2], array_slice('abcdef', 2, 4)
select list_zip([1, 2], ['a', 'b']), flatten([[1], [2, 3]]), list_sort(list_distinct([1, 1, 2])), list_aggregate([1, 2, 3], 'sum'), list_sum([1, 2])
select list_intersect([1, 2], [2, 3]), list_has_all([1, 2, 3], [1, 2]), list_has_any([1], [2]), [1, 2] && [2], [1, 2] @> [1], list_resize([1], 3, 0)
select list_transform([1, 2], lambda x, i: x * i), list_filter([1, 2, 3], lambda x: x > 1), list_reduce([1, 2, 3], lambda a, b: a * b, 10)
select map {'a': 1, 'b': 2}, map_keys(map {'a': 1}), map_values(map {'a': 1}), element_at(map {'a': 1}, 'a'), map_from_entries([('k', 1)]), cardinality(map {'a': 1})
select struct_pack(a := 1, b := 'x'), struct_extract({'a': 1}, 'a'), struct_insert({'a': 1}, b := 2), ({'a': {'b': 2}}).a.b, row(1, 2)
select union_value(num := 2), union_tag(union_value(num := 2))::varchar, union_extract(union_value(num := 2), 'num')
select array_value(1, 2, 3), [1, 2]::int[2], array_distance([1.0, 2.0]::float[2], [1.0, 3.0]::float[2]), array_inner_product([1, 2]::float[2], [3, 4]::float[2])
select 'abc'[1], 'abc'[-1], 'abc'[1:2], left('abc', 2), right('abc', 2), reverse('abc'), repeat('ab', 2), lpad('a', 3, '*'), rpad('a', 3, '*')
select split('a,b', ','), string_split_regex('a1b2', '[0-9]'), split_part('a-b-c', '-', 2), regexp_replace('abc', '(b)', '[\1]'), regexp_extract('a1', '([a-z])([0-9])', ['x', 'y']), regexp_extract_all('a1b2', '[0-9]')
select format('{} {:.2f} {:>5}', 'a', 1.5, 'x'), printf('%d %s %05.1f', 1, 'b', 2.5), concat_ws('-', 'a', null, 'b'), translate('abc', 'b', 'x'), ascii('a'), chr(97), unicode('é')
select starts_with('abc', 'a'), ends_with('abc', 'c'), contains('abc', 'b'), strpos('abc', 'c'), instr('abc', 'b'), 'abc' ^@ 'a', prefix('abc', 'ab'), suffix('abc', 'bc')
select levenshtein('kitten', 'sitting'), jaccard('ab', 'bc'), jaro_winkler_similarity('a', 'b'), hamming('ab', 'ac'), damerau_levenshtein('ab', 'ba')
select nfc_normalize('ä'), strip_accents('ä'), length('ä'), strlen('ä'), octet_length('a'::blob), bit_length('a'), length_grapheme('ä'), upper('ä')
select url_encode('a b'), url_decode('a%20b'), to_base64('a'::blob), from_base64('YQ=='), hex('a'), unhex('61'), md5('a'), sha1('a'), sha256('a'), encode('a'), decode('a'::blob)
select round(2.567, 2), ceil(1.2), floor(1.8), trunc(1.9), sign(-2), abs(-3), sqrt(9), cbrt(27), exp(0), ln(1), log10(100), log2(8), pow(2, 3), gcd(12, 18), lcm(4, 6), even(3)
select sin(0), cos(0), tan(0), asin(0), atan2(0, 1), degrees(pi()), radians(180), cot(1), sinh(0), gamma(5), factorial(5), isnan('nan'::double), isfinite(1.0::double)
select bit_count(7), xor(5, 3), ~5, 1 << 3, 8 >> 2, '101'::bit & '100'::bit = '100'::bit, get_bit('10'::bit, 0), 1.5::decimal(10, 2) * 2, 7 / 2, -7 % 3
select date '2024-02-28' + 2, date '2024-03-01' - date '2024-02-01', last_day(date '2024-02-01'), monthname(date '2024-02-01'), dayofweek(date '2024-02-01'), week(date '2024-02-01'), isodow(date '2024-02-01')
select date_trunc('month', timestamp '2024-02-15 10:00:00'), date_part(['year', 'month'], date '2024-02-15'), date_add(date '2024-02-15', interval 1 month), date_sub('day', date '2024-01-01', date '2024-02-01'), age(timestamp '2024-02-01', timestamp '2024-01-01')
select make_date(2024, 2, 1), make_timestamp(2024, 2, 1, 10, 0, 0.5), make_time(1, 2, 3.5), to_timestamp(1700000000), epoch_ms(1700000000000), strptime('2024-01-02', '%Y-%m-%d'), try_strptime('x', '%Y')
select time_bucket(interval 15 minute, timestamp '2024-01-01 10:20:00'), interval '1 day 2 hours', interval 3 month, to_days(2), to_hours(3), extract(epoch from interval 1 hour)
select timestamptz '2024-01-01 00:00:00+02', timestamp '2024-01-01' at time zone 'Europe/Berlin', (timestamptz '2024-01-01 00:00:00+00')::timestamp, timezone('UTC', timestamp '2024-01-01')
select timestamp_ns '2024-01-01 00:00:00.123456789', '12:30:00'::time, '1 month'::interval, '2024-01-01'::timestamp_s, epoch_ns(timestamp_ns '2024-01-01 00:00:00.000000001')
select '{"a": [1, {"b": 2}]}'::json -> 'a' -> 1 ->> 'b', json_extract('{"a": 1}', '$.a'), json_keys('{"a": 1}'), json_type('[1]'), json_array_length('[1, 2]'), json_valid('{'), json('{"a":1}')
select json_object('a', 1, 'b', [1, 2]), json_array(1, 'x'), to_json({'a': 1}), json_quote('a'), from_json('{"a": 1}', '{"a": "INTEGER"}'), json_transform('{"a": 1}', '{"a": "BIGINT"}'), json_pretty('{"a":1}')
select json_group_object(n, n * 2), json_group_array(n) from range(3) t(n)
select 1 = 1.0, 1 < 2 and 2 <= 2, 1 != 2, null is distinct from null, null is not distinct from null, true is true, false is not true, 1 is not null, not false
select 'a' < 'b', 'a' between 'a' and 'c', 'a' not in ('b'), 'A' ilike 'a', 'ab' not like 'b%', 'ab' not similar to 'b.*', 'ab' ~ 'a.', 'ab' !~ 'c', 'a' collate nocase = 'A'
select case 1 when 1 then 'one' else 'other' end, case when null then 1 end, if(false, 1, 2), coalesce(null, null, 3), nullif(2, 1), greatest(1, null, 3), least(2, null), try('x'::int)
select cast(1 as varchar), 1::varchar::int::double, try_cast('a' as date), '1'::utinyint, true::int, 'true'::bool, '[1, 2]'::int[], '{"a": 1}'::json::varchar, '{''a'': 1}'::struct(a int)
select 170141183460469231731687303715884105727::hugeint::varchar, 18446744073709551615::ubigint, 1e300, 'nan'::double::varchar, '-infinity'::double, 1_000_000, .5, 5., 1e-3
select $$dollar 'quoted'$$, $x$a$x$, e'tab\tnew', '''', 'it''s'
select * exclude (a) from (select 1 as a, 2 as b)
select t.* replace (a + 1 as a) from (select 1 as a, 2 as b) t
select t.* rename (a as c) from (select 1 as a, 2 as b) t
select columns('[ab]') + 1 from (select 1 as a, 2 as b)
select coalesce(*columns(*)) from (select null as a, 2 as b)
select * like 'a%' from (select 1 as aa, 2 as b)
select min(columns(c -> c <> 'b')) from (select 1 as a, 2 as b)
select t, t.a from (select 1 as a) t
select a as x, x + 1 as y from (select 1 as a)
select n as "group", count(*) as "order" from range(3) t(n) group by "group" order by "order", 1
from range(5) t(n) select n, n * n as sq where n > 1 order by sq desc limit 2
from (from range(3)) a select *
select * from range(5) offset 3
select * from range(10) limit 30 percent
select distinct on (k) k, v from (values (1, 'b'), (1, 'a'), (2, 'c')) t(k, v) order by k, v
select k, v from (values (1, 'b'), (1, 'a'), (2, 'c')) t(k, v) qualify row_number() over (partition by k order by v) = 1 order by k
select * from (values (1), (2)) a(x), (values ('p'), ('q')) b(y) order by all desc
select * from range(3) a(n), lateral (select n * 2 as m) l order by all
select (select max(n) from range(5) t(n) where n < o.m) from range(3) o(m) order by all
select n from range(5) t(n) where n > all (select 2) or n = any (select 0) or (n, n) in (select 1, 1) or exists (select 1 where n = 4) order by n
with a(x) as (select 1), b as (from a select x + 1 as y) from a, b
with recursive t(n, path) as (select 1, [1] union all select n + 1, list_append(path, n + 1) from t where n < 4) select * from t order by n
with recursive f(a, b) as (select 0, 1 union select b, a + b from f where b < 50) select a from f order by a
with recursive k(n, v) using key (n) as (select 1, 1 union select n, v + 1 from k where v < 3) select * from k
select 1 union select 1 union all select 2 order by 1
select 1 as a, 2 as b union by name select 3 as b, 4 as a order by all
(select 1 intersect select 1) except all (select 2)
pivot (select * from (values ('x', 1), ('y', 2)) t(k, v)) on k in ('x', 'y') using sum(v)
unpivot (select 1 as a, 2 as b, 3 as c) on a, b into name n value v
unpivot (select 1 as a, 2 as b) on columns(*) into name n value v
select * from (select 1 as id, 2 as p, null as q) unpivot include nulls (v for n in (p, q))
select * from (values ('x', 1), ('y', 2)) t(k, v) pivot (sum(v) for k in ('x', 'y'))
select * from (values (3), (6)) p(t) asof join (values (1, 10), (5, 50)) q(t, v) on p.t >= q.t order by all
select * from (values (1), (2)) a(x) positional join (values ('p'), ('q'), ('r')) b(y)
select * from (values (1), (2)) a(x) semi join (values (2)) b(x) using (x)
select typeof(1), typeof([1]), typeof({'a': 1}), typeof(map {'a': 1}), typeof(1.5), typeof(interval 1 day), typeof('a'::blob), typeof(null)
select format_bytes(1000000), formatReadableDecimalSize(1000), bar(5, 0, 10, 4), hash('a') = hash('a'), to_binary(5), to_hex(255), from_hex('ff'), from_binary('0101')
select equi_width_bins(0, 10, 2, true), list_grade_up([3, 1, 2]), list_cosine_similarity([1.0, 2.0], [1.0, 2.0]), range(1, 10, 3), generate_series(1, 3)
select array_to_string([1, 2], ','), list_any_value([null, 1]), list_where([1, 2], [true, false]), list_select([1, 2], [2]), list_prepend(0, [1]), list_append([1], 2), list_concat([1], [2])
select min_by(n, -n), max_by(n, n), any_value(n), count_if(n > 1), fsum(n), favg(n), bit_xor(n), string_agg(n, '|' order by n) from range(4) t(n)
select last_value(n) over (order by n), first_value(n) over (order by n), ntile(2) over (order by n) from range(4) t(n) order by n
-- each answer is a draw: only its columns are compared
select * from devnet_blocks tablesample reservoir(10 rows) repeatable (1)
select * from devnet_blocks using sample 10%
select uuid() is not null, random() < 1, gen_random_uuid() <> uuid(), now(), current_timestamp, current_date, today()
