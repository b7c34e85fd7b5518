-- Statements that would show or change the process: settings, secrets, catalogue, internals. The form of this file: tests/query_corpus/corpus.py.
-- category: settings [not_select]
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
call pragma_version()
checkpoint
set threads = 100
set global threads to 100
set session memory_limit = '1TB'
set enable_external_access to true
set global enable_external_access = true
set allow_unsigned_extensions = true
set allow_community_extensions = true
set custom_extension_repository = 'http://127.0.0.1:{port}'
set extension_directory = '{outside}'
set secret_directory = '{outside}'
set allowed_directories = ['{outside}']
set disabled_filesystems = ''
set http_proxy = '127.0.0.1:{port}'
set s3_endpoint = '127.0.0.1:{port}'
set log_query_path = '{outside}/queries'
set search_path = 'information_schema,main'
set file_search_path = '{outside}'
set errors_as_json = false
set timezone = 'Asia/Tokyo'
set max_temp_directory_size = '1TB'
set python_enable_replacements = true
set python_scan_all_frames = true
set debug_force_external = true
set variable x = (select content from read_text('{secret}'))
reset memory_limit
reset variable x
pragma threads = 100
pragma memory_limit = '100GB'
pragma enable_logging
pragma force_checkpoint
pragma import_database('{outside}/dump')
pragma show_tables
pragma table_info('devnet_blocks')
pragma database_size
pragma version
pragma x(nextval('s'))
call pragma_table_info('devnet_blocks')
select 1; set threads = 100
-- category: settings [function]
select current_setting('memory_limit')
select current_setting('secret_directory')
select current_setting('home_directory')
select current_setting('http_proxy_password')
select getvariable('x')
select lower(getvariable('x'))
select * from devnet_blocks where gas_used = getvariable('x')
select * from devnet_blocks limit getvariable('x')
-- category: settings [unsupported]
set local threads = 2
reset all
-- category: settings [parse]
select * from devnet_blocks tablesample (getvariable('x') rows)
-- category: secrets [not_select]
create secret s (type s3, key_id 'a', secret 'b', endpoint '127.0.0.1:{port}')
create or replace secret s (type s3, endpoint '127.0.0.1:{port}', url_style 'path', use_ssl false)
drop secret s
create persistent secret s (type s3, key_id 'a', secret 'b')
create temporary secret s (type s3, provider credential_chain)
create secret (type http, bearer_token 'x')
create secret s (type gcs, key_id 'a', secret 'b')
create secret s in local_file (type s3)
drop secret if exists s
drop persistent secret s
-- category: secrets [table_function]
from duckdb_secrets()
select secret_string from duckdb_secrets(redact := false)
select * from duckdb_secret_types()
select * from which_secret('s3://bucket/a.parquet', 's3')
-- category: secrets [function]
select getenv('AWS_SECRET_ACCESS_KEY')
select getenv('TRACE_MARK')
select lower(getenv('TRACE_MARK'))
select * from devnet_blocks where getenv('TRACE_MARK') like 'a%'
-- category: catalogue leak [table_function]
select * from duckdb_settings()
select * from duckdb_secrets()
select * from duckdb_views()
select * from duckdb_functions()
select * from duckdb_extensions()
select * from duckdb_external_file_cache()
select * from duckdb_temporary_files()
select * from which_secret('s3://bucket/a', 's3')
select * from pragma_database_size()
select * from pragma_show('devnet_blocks')
select * from pragma_user_agent()
from duckdb_tables()
from duckdb_columns()
from duckdb_databases()
from duckdb_schemas()
from duckdb_types()
from duckdb_variables()
from duckdb_keywords()
from duckdb_indexes()
from duckdb_sequences()
from duckdb_constraints()
from duckdb_dependencies()
from duckdb_memory()
from duckdb_optimizers()
from duckdb_approx_database_count()
from duckdb_prepared_statements()
from duckdb_log_contexts()
from pragma_table_info('devnet_blocks')
from pragma_storage_info('devnet_blocks')
from pragma_metadata_info()
from pragma_collations()
from pragma_platform()
from pragma_version()
from pragma_last_profiling_output()
from pragma_detailed_profiling_output()
select (select count(*) from duckdb_settings())
select * replace ((select max(value) from duckdb_settings()) as author) from devnet_blocks
-- category: catalogue leak [function]
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
select getvariable('f')
select get_block_size('memory')
select txid_current()
select "current_schema"
select CURRENT_SCHEMA
select current_catalog || 'a'
select lower(current_database())
select current_schema()
select current_catalog()
select current_schemas(false)
select main.current_setting('threads')
select system.main.current_setting('threads')
select pg_get_constraintdef(1)
select pg_get_viewdef('devnet_blocks')
select obj_description(1)
select col_description(1, 1)
select pg_conf_load_time()
select inet_server_addr()
select current_query_id()
select current_transaction_id()
select current_connection_id()
select format_type(1, 1)
-- category: catalogue leak [relation]
select * from duckdb_logs
select * from information_schema.tables
select * from pg_catalog.pg_views
select * from pg_views
select * from sqlite_master
select * from memory.main.devnet_blocks
select * from main.devnet_blocks
select * from temp.devnet_blocks
select * from devnet_blocks at (version => 1)
from duckdb_views
from duckdb_settings
from information_schema.columns
from information_schema.schemata
from information_schema.referential_constraints
from pg_catalog.pg_class
from pg_catalog.pg_settings
from pg_class
from pg_tables
from pg_settings
from pg_type
from sqlite_schema
from sqlite_temp_master
-- category: catalogue leak [not_select]
show tables
show all tables
describe devnet_blocks
summarize devnet_blocks
select * from (describe devnet_blocks)
select * from (show tables)
explain select 1
explain analyze select * from devnet_blocks
select * from (show devnet_blocks)
select * from (summarize devnet_blocks)
show databases
show devnet_blocks
show variables
desc devnet_blocks
explain (format json) select * from devnet_blocks
explain analyze select 1
-- category: catalogue leak [accepted, then engine]
select 'devnet_blocks'::regclass
-- category: catalogue leak [parse]
select * from (pragma database_list)
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
select combine(1, 2)
select finalize(1)
select switch(1, 2)
select variant_normalize(1)
select constant_or_null(1, 2)
select can_cast_implicitly(1, 2)
select cast_to_type(1, 'a')
select unpivot_list(1, 2)
select create_sort_key('a', 'desc nulls last')
select __internal_decompress_string(1)
select __internal_compress_integral_utinyint(1, 0)
select `a`
select get_type(1)
select replace_type(1, 2, 3)
select in_search_path('a', 'b')
select alias(1)
select format_pg_type(1, 'a')
select write_log('x', log_type := 'y')
select sleep_ms(1)
select pg_sleep(1)
select st_point(1, 2)
select nosuchaggregate(distinct a) from devnet_blocks
select nosuchwindow(1) over () from devnet_blocks
select devnet_blocks.getenv('HOME')
select getenv.lower('x') from (select 1) getenv
select sum(getenv('HOME')) over () from devnet_blocks
select first(getenv('HOME') order by 1)
-- category: internals [parse]
select remap_struct({'a': 1}, {'b': 2}, {}, {})
-- category: internals [accepted, then engine]
select list_aggregate([1], 'nosuch')
