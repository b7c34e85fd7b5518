-- Statements that would write a file, an object, a secret or the catalogue. The form of this file: tests/query_corpus/corpus.py.
-- category: file write [not_select]
copy (select 1) to '{outside}/a.csv'
copy (select 1) to '{object}'
copy (select 1 as block_number) to '{object}' (format parquet, use_tmp_file false)
copy devnet_blocks to '{outside}/a.parquet' (format parquet)
copy (select 1) to '/dev/stdout'
export database '{outside}/dump'
import database '{outside}/dump'
copy t from '{secret}'
copy (from devnet_blocks) to '{outside}/a' (format parquet, partition_by (block_number))
copy (from devnet_blocks) to '{outside}/a.json'
copy (select 1) to '{outside}' (format parquet, per_thread_output true)
copy (from devnet_blocks) to '{outside}/a.csv' (format csv, overwrite true)
copy (select 'x') to '{secret}'
copy (select 'x') to '/proc/self/fd/1'
copy (select 'x') to '/proc/self/mem'
copy (select 'x') to 'spilled.csv'
copy devnet_blocks to '{outside}/b.csv'
copy devnet_blocks (block_number) to '{outside}/b.csv'
select 1; copy (select 1) to '{outside}/e.csv'
copy (select 1) to '{outside}/evil.duckdb_extension'
copy (select 1) to '{outside}/x.py'
export database '{outside}/dump' (format parquet)
-- category: file write [parse]
copy (copy (select 1) to '{outside}/c.csv') to '{outside}/d.csv'
with x as (select 1) copy x to '{outside}/a.csv'
copy database memory to m
select * from (copy (select 1) to '{outside}/f.csv')
-- category: file write by function [table_function]
select * from enable_logging('QueryLog', storage := 'file', storage_config := {'path': '{outside}/log'})
select * from enable_profiling('json', '{outside}/profile')
select * from force_checkpoint()
select * from checkpoint()
select * from enable_logging(level := 'trace', storage := 'file')
select * from enable_profiling()
select * from pragma_profiling_output('{outside}/profile')
select * from truncate_duckdb_logs()
select * from set_log_storage('file')
-- category: file write by function [not_select]
pragma enable_profiling
pragma profiling_output = '{outside}/profile'
set profiling_output = '{outside}/profile'
call enable_logging('HTTP', storage := 'file', storage_config := {'path': '{outside}/log'})
-- category: file write by function [function]
select write_log('x')
select write_log('x', level := 'error', scope := 'database')
-- category: write-through [not_select]
copy (select 1 as block_number) to '{object}' (format parquet, overwrite_or_ignore true)
copy (select * from devnet_blocks) to '{object}' (format parquet, use_tmp_file false)
copy (select 1) to '{object}' (format csv, use_tmp_file false)
copy (select 1) to '{object}' (format json, use_tmp_file false)
copy (from devnet_blocks limit 0) to '{object}' (format parquet, append true)
attach '{object}' as o
attach '{object}' as o (read_only)
export database '{object}'
-- category: secret swap [not_select]
create or replace secret s (type s3, key_id 'a', secret 'b', endpoint '127.0.0.1:{port}', url_style 'path', use_ssl false, scope 's3://')
create or replace temporary secret __default_s3 (type s3, endpoint '127.0.0.1:{port}', use_ssl false)
create or replace secret h (type http, http_proxy '127.0.0.1:{port}')
select 1; create or replace secret s (type s3, endpoint '127.0.0.1:{port}'); select * from devnet_blocks
-- category: definition and change [not_select]
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
begin
commit
rollback
vacuum
analyze
comment on view devnet_blocks is 'x'
create or replace table t as from devnet_blocks
create table t as from '{secret}'
create temporary table t (a int)
create table if not exists t (a int)
create recursive view v(n) as select 1
create temp view v as from '{secret}'
create temp macro lower(a) as 'x'
create or replace macro abs(a) as table from '{secret}'
create or replace temp macro count(a) as 0
create type mood as struct(a int)
create sequence if not exists s start 1
create unique index i on devnet_blocks (block_number)
drop table devnet_blocks
drop schema main cascade
drop macro m
drop type t
drop sequence s
alter table devnet_blocks add column a int
alter view devnet_blocks rename to devnet_logs
insert into devnet_blocks select * from devnet_blocks
insert or replace into devnet_blocks values (1)
insert into devnet_blocks values (1) returning *
insert into t from '{secret}'
update devnet_blocks set author = (select content from read_text('{secret}'))
delete from devnet_blocks returning *
delete from devnet_blocks using devnet_logs
merge into devnet_blocks using (select 1 as block_number) s using (block_number) when matched then update set gas_used = 0
with x as (select 1) insert into t select * from x
with x as (select 1) update t set a = 1
begin transaction read only
start transaction
abort
vacuum analyze
checkpoint memory
force checkpoint
comment on column devnet_blocks.author is 'x'
-- category: definition and change [parse]
with x as (delete from devnet_blocks returning *) select * from x
with x as (insert into t values (1) returning *) select * from x
with x as (update t set a = 1 returning *) select * from x
select * into t from devnet_blocks
grant select on devnet_blocks to public
lock table devnet_blocks
declare c cursor for select 1
listen x
do $$ begin end $$
-- category: definition and change [function]
select nextval('s')
select setseed(0.5)
select currval('s')
select nextval('s') from devnet_blocks
select txid_current(), nextval('s')
select setseed(0.5) from devnet_blocks
