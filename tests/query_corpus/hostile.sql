-- Hostile statements, one per line. `-- category: NAME [REASON]` opens a category; REASON is what the gate must answer,
-- `refused` where the reason may vary, `accepted` where the statement is legal for the gate and the other walls must hold.
-- {secret} is a file outside the grant, {object} a granted Parquet object, {foreign} one that is not granted,
-- {outside} a directory outside the grant, {port} a TCP port that must see no connection.
-- category: file read [relation]
from '{secret}'
select * from '{secret}'
select * from "{secret}"
select * from '{foreign}'
select count(*) from '{object}'
select (select count(*) from '{secret}')
select 1 where exists (from '{secret}')
with a as (from '{secret}') select * from a
with "{secret}" as (select 1 as x) select * from "{secret}"
with devnet_blocks as (from '{secret}') select * from devnet_blocks
select * from devnet_blocks union all select * from '{foreign}'
select * from (with "{secret}" as (select 1) select 1) t, "{secret}"
pivot '{foreign}' on block_number in (1, 2) using count(*)
unpivot '{foreign}' on block_number into name n value v
select * from devnet_blocks semi join '{foreign}' using (block_number)
select * from devnet_blocks, lateral (from '{secret}') l
table "{secret}"
-- category: file read by function [table_function]
select * from read_text('{secret}')
select content from read_text('{secret}')
select * from read_blob('{secret}')
select * from read_csv('{secret}')
select * from read_csv_auto('{secret}')
select * from read_json('{secret}')
select * from read_json_auto('{secret}')
select * from read_json_objects('{secret}')
select * from read_ndjson('{secret}')
select * from read_ndjson_objects('{secret}')
select * from read_parquet('{foreign}')
select * from parquet_scan('{foreign}')
select * from parquet_metadata('{object}')
select * from parquet_schema('{object}')
select * from parquet_file_metadata('{object}')
select * from parquet_kv_metadata('{object}')
select * from parquet_bloom_probe('{object}', 'block_number', 1)
select * from sniff_csv('{secret}')
select * from glob('{outside}/*')
select * from glob('/proc/self/*')
select * from read_duckdb('{outside}/x.db', table_name := 't')
select * from read_text('/proc/self/environ')
select * from read_text('/proc/self/maps')
select * from read_parquet(['{object}', '{foreign}'])
select * from read_parquet('{outside}/../{foreign}')
select (select count(*) from read_text('{secret}'))
select * exclude (block_number) replace ((select content from read_text('{secret}')) as author) from devnet_blocks
select * from main.read_text('{secret}')
select * from system.main.read_text('{secret}')
-- category: server-side request [refused]
select * from 'http://127.0.0.1:{port}/latest/meta-data'
select * from read_text('http://127.0.0.1:{port}/latest/meta-data')
select * from read_parquet('http://127.0.0.1:{port}/a.parquet')
select * from read_csv('https://127.0.0.1:{port}/a.csv')
select * from 's3://bucket/a.parquet'
select * from read_blob('s3://bucket/a.parquet?s3_endpoint=127.0.0.1:{port}&s3_use_ssl=false')
select * from read_json('hf://datasets/a/b.json')
attach 'http://127.0.0.1:{port}/x.db' as remote
-- category: file write [not_select]
copy (select 1) to '{outside}/a.csv'
copy (select 1) to '{object}'
copy (select 1 as block_number) to '{object}' (format parquet, use_tmp_file false)
copy devnet_blocks to '{outside}/a.parquet' (format parquet)
copy (select 1) to '/dev/stdout'
export database '{outside}/dump'
import database '{outside}/dump'
copy t from '{secret}'
-- category: file write by function [refused]
select * from enable_logging('QueryLog', storage := 'file', storage_config := {'path': '{outside}/log'})
select * from enable_profiling('json', '{outside}/profile')
select write_log('x')
select * from force_checkpoint()
select * from checkpoint()
-- category: attach and extension [not_select]
attach ':memory:' as m
attach '{outside}/x.db' as m
detach m
use memory
install httpfs
force install spatial from community
load httpfs
load '{outside}/evil.duckdb_extension'
update extensions
-- category: configuration and secrets [not_select]
set variable f = '{secret}'
set enable_external_access = true
set lock_configuration = false
reset enable_external_access
set allowed_paths = ['{secret}']
set temp_directory = '{outside}'
set home_directory = '{outside}'
set memory_limit = '100GB'
set schema = 'information_schema'
pragma enable_verification
pragma database_list
pragma disable_optimizer
create secret s (type s3, key_id 'a', secret 'b', endpoint '127.0.0.1:{port}')
create or replace secret s (type s3, endpoint '127.0.0.1:{port}', url_style 'path', use_ssl false)
drop secret s
call pragma_version()
checkpoint
-- category: catalog leak [refused]
select * from duckdb_settings()
select * from duckdb_secrets()
select * from duckdb_views()
select * from duckdb_functions()
select * from duckdb_extensions()
select * from duckdb_external_file_cache()
select * from duckdb_temporary_files()
select * from duckdb_logs
select * from information_schema.tables
select * from pg_catalog.pg_views
select * from pg_views
select * from sqlite_master
select * from which_secret('s3://bucket/a', 's3')
select * from pragma_database_size()
select * from pragma_show('devnet_blocks')
select * from pragma_user_agent()
select current_setting('temp_directory')
select current_setting('allowed_paths')
select current_schema
select current_catalog
select current_database()
select current_schemas(true)
select current_query()
select current_query
select getenv('HOME')
select pg_get_viewdef(1)
select in_search_path('memory', 'main')
select * from memory.main.devnet_blocks
select * from main.devnet_blocks
select * from temp.devnet_blocks
select * from devnet_blocks at (version => 1)
select getvariable('f')
select get_block_size('memory')
select txid_current()
show tables
show all tables
describe devnet_blocks
summarize devnet_blocks
select * from (describe devnet_blocks)
select * from (show tables)
explain select 1
explain analyze select * from devnet_blocks
-- category: statement from text [refused]
select * from query('from read_text(''{secret}'')')
select * from query_table('devnet_blocks')
select * from query_table(['{foreign}'])
select * from json_execute_serialized_sql(json_serialize_sql('select 1'))
pragma json_execute_serialized_sql('x')
select json_serialize_sql('select 1')
select json_serialize_plan('select 1')
select json_deserialize_sql(json_serialize_sql('select 1'))
select * from histogram('{foreign}', 'block_number')
select * from histogram_values('{foreign}', 'block_number')
select * from python_map_function(1)
select * from arrow_scan(1, 2, 3)
select * from pandas_scan(1)
select * from seq_scan('devnet_blocks')
select * from connection
select * from con
prepare p as select 1
execute p
deallocate p
-- category: several statements [refused]
select 1; select 2
select 1; drop view devnet_blocks
select 1; set variable f = 1
select 1;;copy (select 1) to '{outside}/a.csv'
select 1 /* ; */ ; select 2
/* select 1 */ drop view devnet_blocks
-- category: comment and quoting tricks [refused]
select * from/**/'{secret}'
select * from /* a /* b */ c */ '{secret}'
select * from $$ {secret} $$
select * from "read_text"('{secret}')
select * from "READ_TEXT"('{secret}')
select * from ReAd_TeXt('{secret}')
select * from devnet_blocks, "{secret}"
select 'a' || (select "content" from "read_text"('{secret}'))
from "devnet_blocks", '{secret}'
-- category: definition and change [refused]
create table t (a int)
create temp table t as select 1
create view v as select 1
create or replace view devnet_blocks as select 1
create macro m(a) as a
create function f(a) as table select a
create type t as enum ('a')
create sequence s
create schema s
create index i on devnet_blocks (block_number)
drop view devnet_blocks
alter view devnet_blocks rename to x
insert into devnet_blocks values (1)
update devnet_blocks set block_number = 1
delete from devnet_blocks
truncate devnet_blocks
merge into devnet_blocks using devnet_logs on true when matched then delete
with x as (select 1) delete from devnet_blocks
with x as (delete from devnet_blocks returning *) select * from x
begin
commit
rollback
vacuum
analyze
comment on view devnet_blocks is 'x'
select nextval('s')
select setseed(0.5)
-- category: parameters [parameters]
select ?
select $1
select $name
select * from devnet_blocks where block_number = ?
select * from devnet_blocks limit ?
-- category: scope tricks [relation]
with recursive a as (select 1 as n union all select n + 1 from b) select * from a
with a as (select * from b), b as (select 1) select * from a
select * from (with a as (select 1) select * from a) x, a
with a as (select 1) select * from a.a
with recursive r as (select 1 as n union all select n + 1 from recurring.r) select * from r
select (with a as (select 1) select * from a), (select * from a)
with a as (with b as (select 1) select * from b) select * from b
-- category: internals [function]
select make_type('x')
select stats(1)
select vector_type(1)
select create_sort_key(1, 'asc')
select __internal_compress_string_hugeint('a')
select pg_sleep(100)
select sleep_ms(100000)
select nosuchfunction(1)
select read_text('{secret}')
select st_setcrs(1, 'x')
select block_number -+@ 1 from devnet_blocks
-- category: crash through the gate's denials [function]
select like_escape(repeat('a', 1000000), repeat('%a', 100000) || 'b', 'x')
select repeat('a', 1000000) ilike repeat('%a', 100000) || 'b' escape 'x'
select repeat('a', 1000000) not like repeat('%a', 100000) || 'b' escape 'x'
select json_merge_patch(repeat('{"a":', 200000) || '1' || repeat('}', 200000), repeat('{"a":', 200000) || '1' || repeat('}', 200000))
select json_structure(repeat('[', 1000000) || repeat(']', 1000000))
select json_contains(repeat('[', 1000000) || repeat(']', 1000000), '1')
-- category: wrong literals [literal]
select * from devnet_logs where address = x'00'
select X'00ff'
select 0xff
-- category: CPU [accepted]
select levenshtein(repeat('a', 100000), repeat('b', 100000))
select jaro_winkler_similarity(repeat('a', 300000), repeat('b', 300000))
select list_reduce(range(3000000), lambda a, b: a + b)
select count(*) from range(10000000000)
with recursive r as (select 1 as n union all select n + 1 from r) select * from r
select count(*) from range(100000) a, range(100000) b, range(1000) c
-- category: memory [accepted]
select repeat('x', 4000000000)
select lpad('x', 2000000000, 'y')
select list(a.range) from range(1000000) a, range(10000) b
select string_agg(repeat('x', 100000)) from range(100000)
select length(regexp_replace(repeat('a', 100000000), 'a', 'bbbbbbbbbbbb', 'g'))
select from_base64(repeat('AAAA', 500000000))
select * from range(100000000) order by hash(range) desc limit 9999
-- category: output [accepted]
select repeat('x', 20000000)
select repeat('x', 1000000) from range(1000)
select range from range(100000000)
