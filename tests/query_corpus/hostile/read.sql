-- Statements that would read what is not granted. The form of this file: tests/query_corpus/corpus.py.
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
from '{secret}' select count(*)
select * from E'{secret}'
select * from '{outside}/*.csv'
select * from '{outside}/**'
select * from '/proc/self/environ'
select * from '/proc/self/cmdline'
select * from '/etc/passwd'
select * from '../../../../etc/passwd'
select * from 'file://{secret}'
select * from 'file:{secret}'
select * from "file://{foreign}"
select * from '/dev/stdin'
select * from devnet_blocks natural join '{foreign}'
select * from devnet_blocks left join '{foreign}' f on f.block_number = devnet_blocks.block_number
select * from devnet_blocks asof join '{foreign}' f on devnet_blocks.block_number >= f.block_number
select * from devnet_blocks positional join '{foreign}'
select * from devnet_blocks anti join '{foreign}' using (block_number)
select array(from '{foreign}')
select 1 in (select block_number from '{foreign}')
select 1 = any (select block_number from '{foreign}')
select case when exists (from '{secret}') then 1 end
select * from range((select count(*) from '{foreign}'))
select * from generate_series(1, (select max(block_number) from '{foreign}'))
select * from devnet_blocks where block_number in (select block_number from '{foreign}')
select block_number from devnet_blocks group by block_number having count(*) > (select count(*) from '{foreign}')
select * from devnet_blocks order by (select max(block_number) from '{foreign}')
select * from devnet_blocks limit (select count(*) from '{foreign}')
select * from devnet_blocks limit 1 offset (select count(*) from '{foreign}')
select sum(gas_used) filter ((select true from '{foreign}')) from devnet_blocks
select sum(gas_used) over (partition by (select max(block_number) from '{foreign}')) from devnet_blocks
select * replace ((select s from '{foreign}') as author) from devnet_blocks
select columns(c -> c = (select s from '{foreign}')) from devnet_blocks
select list_transform([1], lambda x: (select count(*) from '{foreign}'))
select [(select s from '{foreign}') for x in [1]]
select {'a': (select s from '{foreign}')}
select map {(select s from '{foreign}'): 1}
values ((select s from '{foreign}'))
with a as materialized (from '{foreign}') select * from a
with recursive r as (select block_number as n from '{foreign}' union all select n + 1 from r where n < 3) select * from r
select * from (values (1)) v(n), lateral (select * from '{foreign}') l
(from '{foreign}') union all (from '{foreign}')
select * from devnet_blocks except select * from '{foreign}'
select * from devnet_blocks union by name select * from '{foreign}'
select * from '{foreign}' tablesample 10%
select * from '{foreign}' using sample 1
select distinct on ((select s from '{foreign}')) 1 from devnet_blocks
select block_number from devnet_blocks qualify row_number() over () = (select count(*) from '{foreign}')
select try((select s from '{foreign}'))
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
select * from read_csv(['{secret}'])
select * from read_csv('{secret}', header = false, all_varchar = true)
select * from read_text(['{secret}', '/etc/passwd'])
select * from read_blob('/proc/self/mem')
select * from read_text('/proc/1/environ')
select * from read_parquet('{outside}/*.parquet')
select * from read_parquet('{object}', filename = true)
select * from read_parquet('{foreign}', encryption_config = {footer_key: 'k'})
select * from "read_csv"('{secret}')
select * from READ_CSV_AUTO('{secret}')
select * from devnet_blocks, read_text('{secret}')
select * from devnet_blocks, lateral read_text('{secret}')
select * from devnet_blocks join read_text('{secret}') on true
from read_text('{secret}') select content
with a as (select * from read_text('{secret}')) select * from a
with recursive r as (select content from read_text('{secret}') union all select content from r where false) select * from r
select 1 where exists (select 1 from read_text('{secret}') where content like '%marker%')
select 1 from devnet_blocks where block_number = (select count(*) from read_text('{secret}') where content like 'a%')
select 1 from devnet_blocks order by (select content from read_text('{secret}'))
select list_transform(['{secret}'], lambda f: (select content from read_text(f)))
select (select content from read_text('{secret}')) between 'a' and 'b'
select json((select content from read_text('{secret}')))
select error((select content from read_text('{secret}')))
select cast((select content from read_text('{secret}')) as int)
select * from read_xlsx('{secret}')
select * from st_read('{secret}')
select * from iceberg_scan('{outside}')
select * from delta_scan('{outside}')
select * from sqlite_scan('{outside}/x.db', 't')
select * from postgres_scan('host=127.0.0.1 port={port}', 'public', 't')
select * from mysql_scan('host=127.0.0.1 port={port}', 'db', 't')
select * from parquet_full_metadata('{object}')
select * from glob('{object}')
select * from read_json('{secret}', format = 'unstructured')
pivot (from read_text('{secret}')) on filename in ('a') using count(*)
select * from (from read_text('{secret}')) unpivot (v for n in (content))
-- category: other tenants [relation]
select * from tenant_b_blocks
select * from devnet_block
select * from "DEVNET_BLOCKS "
select * from devnet_blocks_
select * from dataset
select * from mainnet_logs
select * from devnet_blocks where block_number in (select block_number from tenant_b_blocks)
with a as (select * from tenant_b_blocks) select * from a
select (select max(block_number) from tenant_b_blocks)
select * from devnet_blocks union all select * from tenant_b_blocks
select tenant_b_blocks.* from devnet_blocks, tenant_b_blocks
select * from memory.tenant_b.blocks
select * from tenant_b.devnet_blocks
select * from "tenant_b"."devnet_blocks"
select * from temp.main.devnet_blocks
select * from system.main.devnet_blocks
select * from main."devnet_blocks"
select * from devnet_blocks at (timestamp => now())
select * from 'cryo/1/blocks/0_10/blocks.parquet'
-- category: other tenants [accepted, then engine]
select filename from devnet_blocks
select file_row_number from devnet_blocks
select file_index from devnet_blocks
select rowid from devnet_blocks
select devnet_blocks.filename from devnet_blocks
select max(filename) from devnet_blocks
select columns('filename') from devnet_blocks
from devnet_blocks select filename where filename like '%'
-- category: other tenants [table_function]
select * from read_parquet('{outside}/../outside/foreign.parquet')
select * from read_parquet('s3://bucket/tenant_b/../tenant_a/a.parquet')
-- category: scope tricks [relation]
with recursive a as (select 1 as n union all select n + 1 from b) select * from a
with a as (select * from b), b as (select 1) select * from a
select * from (with a as (select 1) select * from a) x, a
with a as (select 1) select * from a.a
with recursive r as (select 1 as n union all select n + 1 from recurring.r) select * from r
select (with a as (select 1) select * from a), (select * from a)
with a as (with b as (select 1) select * from b) select * from b
with "a.b" as (select 1) select * from "a.b"
with "*" as (select 1) select * from "*"
with "../x.csv" as (select 1) select * from "../x.csv"
with "{foreign}" as materialized (select 1) select * from "{foreign}"
with recursive "{secret}" as (select 1 as n union all select n from "{secret}" where false) select * from "{secret}"
select * from (with "{secret}" as (select 1) select * from "{secret}") a, "{secret}" b
select exists (with x as (select 1) from x), (from x)
with x as (select 1) select * from (with y as (from x) from y), y
with recursive a as (select 1 as n union all select n + 1 from a where n < 3), b as (from c), c as (select 1) from b
select * from (with a as (select 1) from a) union all from a
with a as (select 1) select * from main.a
with a as (select 1) select * from memory.main.a
with tenant as (select 1) select * from tenant.tenant
select * from devnet_blocks b, (from b)
select * from devnet_blocks b, lateral (from b)
with a as (select 1) select * from A, "b"
-- category: scope tricks [parse]
with a as (select 1), a as (select 2) select * from b
