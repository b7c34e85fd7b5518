-- Statements that DuckDB runs and that are refused here on purpose, one per line.
-- `-- REASON: why; what to write instead` opens those that the gate refuses for REASON.
-- not_select: it shows the schema, which is served elsewhere; ask GET /v1/datasets/{name}
describe devnet_blocks
show tables
summarize devnet_blocks
select * from (describe devnet_blocks)
select * from (summarize devnet_blocks)
explain select 1
-- not_select: PIVOT without an IN list is several statements to the engine; write ON column IN (...)
pivot devnet_transactions on transaction_type using count(*)
-- function: sqlglot, the second reader, takes this form for a function; write > ALL (SELECT unnest(...)) or list_max
select 3 > all ([1, 2])
-- function: the postfix operator is an internal name of the engine; write factorial(5)
select 5!
-- function: ESCAPE can crash the engine; write regexp_matches or contains
select 'a%' like 'a!%' escape '!'
-- function: nested JSON can crash the engine in it; write json_extract, json_keys or json_type
select json_structure('{"a": 1}')
select json_contains('{"a": 1}', '1')
select json_merge_patch('{"a": 1}', '{"b": 2}')
-- function: it shows the process, its settings or its catalogue
select current_setting('threads')
select getvariable('x')
select current_database(), current_schema()
select current_query()
-- function: it changes state, which a question may not
select setseed(0.5)
-- function: it only waits
select sleep_ms(1)
-- function: it turns a statement into text, or text into a statement
select json_serialize_sql('select 1')
-- table_function: it reads files or the catalogue, or runs text; read relations, range, generate_series, unnest, json_each or json_tree
select * from glob('*')
select * from duckdb_functions()
select * from query('select 1')
select * from query_table('devnet_blocks')
select * from repeat(1, 3)
-- relation: the name of a schema or catalogue could reach past the granted relations; write the name alone
select * from main.devnet_blocks
select * from information_schema.tables
-- literal: the engine reads a text or a column name where bytes or a number seem to stand; write unhex('ab') or 255
select x'ab'
select 0xff
