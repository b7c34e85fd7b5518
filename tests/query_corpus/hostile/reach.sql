-- Statements that would open a connection, a database or an extension. The form of this file: tests/query_corpus/corpus.py.
-- category: server-side request [relation]
select * from 'http://127.0.0.1:{port}/latest/meta-data'
select * from 's3://bucket/a.parquet'
select * from 'https://127.0.0.1:{port}/a.parquet'
select * from 'http://127.0.0.1:{port}/a.csv'
select * from 'http://localhost:{port}/a.json'
select * from 'http://[::1]:{port}/a.parquet'
select * from 'HTTP://127.0.0.1:{port}/a.parquet'
select * from 'http://2130706433:{port}/a.parquet'
select * from 'http://127.0.0.1:{port}@169.254.169.254/latest/meta-data'
select * from 'gcs://bucket/a.parquet'
select * from 'gs://bucket/a.parquet'
select * from 'r2://bucket/a.parquet'
select * from 's3a://bucket/a.parquet'
select * from 's3n://bucket/a.parquet'
select * from 'az://container/a.parquet'
select * from 'abfss://container/a.parquet'
select * from 'hf://datasets/a/b/c.parquet'
select * from 'ftp://127.0.0.1:{port}/a.csv'
select * from 'md:sample'
-- category: server-side request [table_function]
select * from read_text('http://127.0.0.1:{port}/latest/meta-data')
select * from read_parquet('http://127.0.0.1:{port}/a.parquet')
select * from read_csv('https://127.0.0.1:{port}/a.csv')
select * from read_blob('s3://bucket/a.parquet?s3_endpoint=127.0.0.1:{port}&s3_use_ssl=false')
select * from read_json('hf://datasets/a/b.json')
select * from read_text('http://127.0.0.1:{port}/')
select * from read_blob('http://127.0.0.1:{port}/')
select * from read_csv('http://127.0.0.1:{port}/a.csv')
select * from read_json('http://127.0.0.1:{port}/a.json')
select * from read_parquet('s3://bucket/a.parquet?s3_endpoint=127.0.0.1:{port}&s3_use_ssl=false&s3_url_style=path')
select * from glob('http://127.0.0.1:{port}/*')
select * from sniff_csv('http://127.0.0.1:{port}/a.csv')
select * from parquet_metadata('http://127.0.0.1:{port}/a.parquet')
select (select content from read_text('http://127.0.0.1:{port}/?q=' || (select max(block_number) from devnet_blocks)))
select list_transform(range(10), lambda n: (select content from read_text('http://127.0.0.1:{port}/' || n)))
-- category: server-side request [not_select]
attach 'http://127.0.0.1:{port}/x.db' as remote
copy (from devnet_blocks) to 'http://127.0.0.1:{port}/a.csv'
copy (from devnet_blocks) to 's3://bucket/a.parquet'
copy t from 'http://127.0.0.1:{port}/a.csv'
attach 'host=127.0.0.1 port={port}' as p (type postgres)
attach 's3://bucket/x.db'
attach 'md:'
install httpfs from 'http://127.0.0.1:{port}'
-- category: server-side request [function]
select http_get('http://127.0.0.1:{port}/')
-- category: server-side request [parse]
select * from http_post('http://127.0.0.1:{port}/', {})
-- category: attach [not_select]
attach ':memory:' as m
attach '{outside}/x.db' as m
detach m
use memory
attach '{outside}/x.db'
attach if not exists '{outside}/x.db' as m
attach '{outside}/x.db' as m (read_only)
attach '{foreign}' as m
attach '{secret}' as m (type sqlite)
attach ':memory:' as m (type duckdb)
attach database ':memory:' as m
attach '' as m
detach database memory
use m
use memory.main
select 1; attach ':memory:' as m
create schema if not exists m.s
-- category: extensions [not_select]
install httpfs
force install spatial from community
load httpfs
load '{outside}/evil.duckdb_extension'
update extensions
install '{outside}/evil.duckdb_extension'
install spatial from community
install 'httpfs'
force install httpfs
load 'httpfs'
load spatial
load '{secret}'
update extensions (httpfs)
call load_aws_credentials()
pragma platform
-- category: extensions [table_function]
select * from load_aws_credentials()
