-- Statements that would use up time or memory, answer without end, or crash the engine. The form of this file: tests/query_corpus/corpus.py.
-- category: CPU bomb [accepted, then limits]
select levenshtein(repeat('a', 100000), repeat('b', 100000))
select jaro_winkler_similarity(repeat('a', 300000), repeat('b', 300000))
select list_reduce(range(3000000), lambda a, b: a + b)
select count(*) from range(10000000000)
with recursive r as (select 1 as n union all select n + 1 from r) select * from r
select count(*) from range(100000) a, range(100000) b, range(1000) c
select damerau_levenshtein(repeat('a', 20000), repeat('b', 20000))
select jaccard(repeat('ab', 5000000), repeat('cd', 5000000))
select jaro_similarity(repeat('a', 300000), repeat('b', 300000))
select editdist3(repeat('a', 100000), repeat('b', 100000))
select list_sort(list_transform(range(3000000), lambda x: hash(x)))
select count(*) from range(1000000) a join range(1000000) b on a.range < b.range
select count(*) from range(100000) a, range(100000) b where hash(a.range, b.range) = 1
select sum(sin(a.range + b.range)) from range(1000000) a, range(1000000) b
with recursive r(n, s) as (select 1, 1::double union all select n + 1, s / 2 + n from r where n > 0) select max(n) from r
with recursive r as (select 1 as n union all select r.n + 1 from r, range(1000)) select count(*) from r
select list_transform(range(3000), lambda x: list_sum(list_transform(range(3000), lambda y: x * y % 7)))
select list_reduce(range(1000000), lambda a, b: a * 31 % 1000003 + b)
select factorial(30), list_reduce(range(2000000), lambda a, b: greatest(a, b))
select regexp_matches(repeat('a', 10000000) || 'b', '(a*)*c')
select regexp_extract_all(repeat('ab', 5000000), '(a|b|ab)*')
select regexp_split_to_array(repeat('a,', 5000000), ',')
select count(*) from devnet_blocks a, devnet_blocks b, devnet_blocks c, devnet_blocks d, devnet_blocks e, devnet_blocks f
select count(*) from devnet_transactions a, devnet_transactions b, devnet_transactions c, devnet_transactions d
select block_number, (select count(*) from range(100000000) r where r.range % (block_number + 1) = 0) from devnet_blocks
select count(distinct hash(range)) from range(200000000)
select mode(range % 1000003) from range(300000000)
select quantile_cont(hash(range)::double, 0.5) from range(100000000)
select approx_top_k(range % 999983, 1000) from range(300000000)
select sum(a.range) over (order by hash(a.range) rows between 100000 preceding and 100000 following) from range(2000000) a limit 1
select count(*) from generate_series(1, 9223372036854775806)
select max(length(format('{:>1000}', range))) from range(50000000)
select max(sha256(range::varchar)) from range(50000000)
select max(md5(repeat('a', 1000000) || range)) from range(20000)
select count(*) from (select unnest(range(10000)) from range(100000))
-- category: CPU bomb [accepted, then engine]
select sum(sum(b.gas_used) over ()) over () from devnet_blocks a, devnet_blocks b, devnet_blocks c, range(10000)
-- category: memory bomb [accepted, then limits]
select repeat('x', 4000000000)
select lpad('x', 2000000000, 'y')
select list(a.range) from range(1000000) a, range(10000) b
select string_agg(repeat('x', 100000)) from range(100000)
select length(regexp_replace(repeat('a', 100000000), 'a', 'bbbbbbbbbbbb', 'g'))
select from_base64(repeat('AAAA', 500000000))
select * from range(100000000) order by hash(range) desc limit 9999
select repeat('x', 1000000000) || repeat('y', 1000000000)
select rpad('x', 2000000000, 'y')
select range(2000000000)
select list_resize([1], 2000000000, 0)
select list_transform(range(200000000), lambda x: x::varchar)
select array_agg(range) from range(300000000)
select map_from_entries(list_transform(range(20000000), lambda x: {'k': x, 'v': x}))
select format('{:>1000000000}', 'x')
select printf('%1000000000d', 1)
select bitstring('1', 2000000000)
select hex(repeat('x', 800000000))
select to_base64(repeat('x', 900000000)::blob)
select url_encode(repeat(' ', 500000000))
select replace(repeat('a', 100000000), 'a', repeat('b', 100))
select string_split(repeat('a,', 100000000), ',')
select regexp_split_to_array(repeat('a,', 50000000), ',')
select histogram(range) from range(100000000)
select json_group_array(range) from range(200000000)
select string_agg(range, ',') from range(500000000)
select count(*) from (select range from range(300000000) group by range)
select distinct hash(range) from range(300000000)
with recursive r as (select repeat('x', 1000) as s union all select s || s from r) select max(length(s)) from r
with a as materialized (select range as n, repeat('x', 1000) as s from range(100000000)) select max(a.s) from a, a b where a.n = b.n
select list(s) from (select repeat('x', 10000000) as s from range(1000))
select max(list) from (select list(b.range) over (order by a.range) as list from range(100000) a, range(100) b)
select * from range(50000000) a full join range(50000000) b on hash(a.range) = hash(b.range) order by 1, 2
select repeat([1, 2, 3], 500000000)
select list_zip(range(100000000), range(100000000))
select json_array(repeat('[', 100000000), repeat('{', 100000000))
select bit_count(repeat('1', 1000000000)::bit)
select unhex(repeat('ff', 900000000))
select list_concat(range(200000000), range(200000000))
select string_agg(repeat('y', 1000000), '') over (order by range) from range(10000)
-- category: output bomb [accepted, then limits]
select repeat('x', 20000000)
select repeat('x', 1000000) from range(1000)
select range from range(100000000)
select * from range(1000000000)
select repeat('x', 9000000), range from range(1000)
select repeat('x', 5000000) as a, repeat('y', 5000000) as b, repeat('z', 5000000) as c
select range(1000000) from range(1000)
select {'a': repeat('x', 3000000), 'b': repeat('y', 3000000)} from range(100)
select unnest(range(100000000))
select a.*, b.*, c.* from devnet_blocks a, devnet_blocks b, devnet_blocks c
select map {'k': repeat('x', 20000000)}
select json_array(repeat('x', 20000000))
select from_hex(repeat('00', 20000000))
-- category: crash through the gate's denials [function]
select like_escape(repeat('a', 1000000), repeat('%a', 100000) || 'b', 'x')
select repeat('a', 1000000) ilike repeat('%a', 100000) || 'b' escape 'x'
select repeat('a', 1000000) not like repeat('%a', 100000) || 'b' escape 'x'
select json_merge_patch(repeat('{"a":', 200000) || '1' || repeat('}', 200000), repeat('{"a":', 200000) || '1' || repeat('}', 200000))
select json_structure(repeat('[', 1000000) || repeat(']', 1000000))
select json_contains(repeat('[', 1000000) || repeat(']', 1000000), '1')
select repeat('a', 1000000) not ilike repeat('%a', 100000) || 'b' escape 'x'
select not_like_escape('a', 'b', 'x')
select not_ilike_escape('a', 'b', 'x')
select ilike_escape('a', 'b', 'x')
select 'a' like 'b' escape 'x'
select json_group_structure('[1]')
select json_contains('[1]', '1')
select json_merge_patch('{}', '{}')
select json_structure('{}')
select list_transform([1], lambda x: json_structure('[]'))
-- category: crash and harm [accepted, then engine]
select list_sort(range(100), 'nosuch')
select substring('abc', -9223372036854775808, 9223372036854775807)
select 9223372036854775807 + 1
select (-9223372036854775808)::bigint // -1, (-9223372036854775808)::bigint % -1
select factorial(1000000)
select 1 << 1000, 1::tinyint << 127
select chr(-1), chr(2147483647)
select 1e308 * 1e308, ln(-1), sqrt(-1)
select date '294247-01-10' + interval 1000000 year
select make_timestamp(999999999, 99, 99, 99, 99, 99)
select interval '999999999999999999 years'
select strptime('x', repeat('%Y', 10000))
select json_transform('{"a": 1}', '{"a": "NOSUCH"}')
select from_json('[1]', '["UHUGEINT"]')
select regexp_matches('a', repeat('(', 10000))
select regexp_matches('a', '(?<n>a)(?<n>b)')
select printf('%s%s%s%s', 'a')
select format('{}{}{}', 1)
select format('{:{}}', 1, 1000000000000)
select list_aggregate([1, 2], 'approx_quantile', -1)
select quantile_cont(x, 2.0) from (values (1)) v(x)
select reservoir_quantile(range, 0.5, -1) from range(10)
select ntile(-1) over () from range(10)
select * from range(10) limit -1
select * from range(1, 10, 0)
select * from range(timestamp '2024-01-01', timestamp '2024-01-02', interval 0 second)
select unnest(unnest([[1]]))
select bitstring('2', 8)
select get_bit('101'::bit, 100)
select set_bit('101'::bit, -1, 1)
select union_value(a := 1).b
select map([1, 1], [2, 3])
select struct_extract({'a': 1}, 'b')
select enum_range(null::varchar)
select 'a' collate nosuch
select timestamp '2024-01-01' at time zone 'No/Such'
select #99
select columns('(') from devnet_blocks
select error('x')
select error(author::varchar) from devnet_blocks
select decode('\xff'::blob)
select from_base64('!')
select unhex('zz')
select uuid(), gen_random_uuid()::varchar::int
-- category: crash and harm [accepted, then nothing]
select [1, 2, 3][9223372036854775807]
select left('abc', -9223372036854775808), right('abc', 9223372036854775807)
select (-170141183460469231731687303715884105728)::hugeint / -1
select strftime(timestamp '2024-01-01', repeat('%c', 100000))
select json_extract(repeat('[', 100000) || repeat(']', 100000), '$')
select json_valid(repeat('{"a":', 100000) || '1' || repeat('}', 100000))
select json_extract('{"a": 1}', repeat('$.a', 10000))
select regexp_matches('a', repeat('a{1000}', 100))
select regexp_replace('a', '(a)', '\99')
select 'a' similar to repeat('%', 100000)
select repeat('a', 1000000) like repeat('%a', 100000) || 'b'
select printf('%n', 1)
select list_aggregate([1, 2], 'string_agg', 'x')
select nth_value(range, -1) over () from range(10)
select lag(range, 9223372036854775807) over () from range(10)
select sum(range) over (rows between 9223372036854775807 preceding and 9223372036854775807 following) from range(10)
select sum(range) over (rows between -1 preceding and current row) from range(10)
select * from range(10) limit 9223372036854775807 offset 9223372036854775807
select * from unnest([[[[1]]]])
select array_value(1, 2)[3], array_cross_product([1, 2, 3]::int[3], [1, 2, 3]::int[3])
select try_cast(repeat('9', 100000) as hugeint)
select repeat('9', 100000)::double
-- category: crash and harm [parse]
select * from devnet_blocks tablesample 1000%
select collate('a', 'nosuch')
select * from (values (1), (1, 2))
-- category: crash and harm [accepted, then crash]
select repeat('a', 1000000) ilike repeat('%a', 100000) || 'b'
-- category: crash and harm [accepted, then limits]
select repeat('a', 1000000) glob repeat('*a', 100000) || 'b'
