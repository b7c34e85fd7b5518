-- Statements that hide what they are: text that becomes SQL, several at once, comments, quotes, parameters. The form of this file: tests/query_corpus/corpus.py.
-- category: dynamic SQL [table_function]
select * from query('from read_text(''{secret}'')')
select * from query_table('devnet_blocks')
select * from query_table(['{foreign}'])
select * from json_execute_serialized_sql(json_serialize_sql('select 1'))
select * from histogram('{foreign}', 'block_number')
select * from histogram_values('{foreign}', 'block_number')
select * from python_map_function(1)
select * from arrow_scan(1, 2, 3)
select * from pandas_scan(1)
select * from seq_scan('devnet_blocks')
from query('select 1')
from query('from devnet_blocks')
select (select * from query('select 1'))
with a as (from query('select content from read_text(''{secret}'')')) select * from a
from query_table('{foreign}')
from query_table(['devnet_blocks', '{foreign}'])
from query_table('duckdb_settings')
from query_table(['devnet_blocks'], true)
select * from devnet_blocks, lateral query('select 1')
select * from main.query('select 1')
from json_execute_serialized_sql('{"statements": []}')
select * from summary((from devnet_blocks))
select * from histogram(devnet_blocks, block_number)
select * from histogram_values(devnet_blocks, block_number, bin_count := 2)
from python_map_function(140000000000000, 'x')
from arrow_scan_dumb(1, 2, 3)
from pandas_scan(140000000000000)
from test_all_types()
from test_vector_types(null::int)
from repeat_row(1, 2, num_rows = 3)
from repeat(1, 3)
from unnest_rewriter(1)
from sql_auto_complete('select')
from dbgen(sf = 1)
-- category: dynamic SQL [not_select]
pragma json_execute_serialized_sql('x')
prepare p as select 1
execute p
deallocate p
call dbgen(sf = 1)
call dsdgen(sf = 1)
execute p(1)
prepare p as select content from read_text($1)
-- category: dynamic SQL [function]
select json_serialize_sql('select 1')
select json_serialize_plan('select 1')
select json_deserialize_sql(json_serialize_sql('select 1'))
select query('select 1')
select json_execute_serialized_sql(json_serialize_sql('select 1'))
select json_deserialize_sql('{"statements": []}')
-- category: dynamic SQL [relation]
select * from connection
select * from con
select * from task
select * from sys
select * from duckdb
select * from engine
-- category: several statements [not_select]
select 1; drop view devnet_blocks
select 1; set variable f = 1
select 1;;copy (select 1) to '{outside}/a.csv'
/* select 1 */ drop view devnet_blocks
select 1; begin
begin; select 1; commit
select 1; pragma version
select 1; copy (select 1) to '{outside}/g.csv'
with a as (select 1) select * from a; drop view devnet_blocks
explain select 1; select 2
-- category: several statements [multi_statement]
select 1; select 2
select 1 /* ; */ ; select 2
;;select 1;;select 2
select 1;select 1
select 1 /* ; */; /* a */ select 2
(select 1); (select 2)
select ';'; select 2
select $$;$$; select 2
from devnet_blocks; from '{secret}'
-- category: comment and quoting tricks [relation]
select * from/**/'{secret}'
select * from /* a /* b */ c */ '{secret}'
select * from $$ {secret} $$
select * from devnet_blocks, "{secret}"
from "devnet_blocks", '{secret}'
select/**/*/**/from/**/'{secret}'
select * from "{outside}/secret.csv"
select * from e'\x2fetc\x2fpasswd'
select * from $a${secret}$a$
select * from $tag$/etc/passwd$tag$
select * from devnet_blocks /* ' */ , '{secret}' /* ' */
select 1 /* /* */ */ union select 2 from '{secret}'
select "a""b" from '{secret}' as t("a""b")
select * from(select*from'{secret}')
select*from'{secret}'
from'{secret}'
select * from "devnet_blocks""; drop view x; --"
select * from devnet_blocks as "'{secret}'", '{foreign}'
select 1 AS "x", (FROM "{secret}")
-- category: comment and quoting tricks [table_function]
select * from "read_text"('{secret}')
select * from "READ_TEXT"('{secret}')
select * from ReAd_TeXt('{secret}')
select 'a' || (select "content" from "read_text"('{secret}'))
from/**/read_text/**/('{secret}')
from read_text /* a */ ('{secret}')
from "main"."read_text"('{secret}')
from "rEAD_tEXT"('{secret}')
from read_text('{sec' || 'ret}')
select '''' || (select content from read_text('{secret}')) || ''''
select * from getenv('HOME')
-- category: comment and quoting tricks [parse]
select * from --x
select * from -- '
select * from U&'{secret}'
select 'HOME'.getenv()
select 'x'.lower().getvariable()
-- category: comment and quoting tricks [function]
select getenv/**/('HOME')
select "getenv"('HOME')
select "GetEnv"('HOME')
select ('threads').current_setting()
select array[getenv('HOME')]
-- category: parameters [parameters]
select ?
select $1
select $name
select * from devnet_blocks where block_number = ?
select * from devnet_blocks limit ?
select ?1
select $1::int
select * from range(?)
select * from devnet_blocks where block_number between $a and $b
select lower($x)
values (?)
with a as (select ?) select * from a
select * from devnet_blocks order by ?
select [?]
select case when ? then 1 end
-- category: parameters [parse]
select * from ?
select * from devnet_blocks tablesample ?
-- category: wrong literals [literal]
select * from devnet_logs where address = x'00'
select X'00ff'
select 0xff
select x'ab' || 'c'
select 0xAB
select * from devnet_logs where topic0 = X'00'
-- category: wrong literals [parse]
select 0XAB + 1
select [0xff]
