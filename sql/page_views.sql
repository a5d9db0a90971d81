-- Page views of a web server's logs, in a table of PostgreSQL that a web page can read from at any time:
--
--     createdb shop
--     tidemill run sql/page_views.sql
--
-- A row for each path and hour, which is replaced whenever new lines come. Each batch is one transaction, with its
-- number in the table tidemill_batches, so that every line is counted once, whatever crashes.

CREATE UNBOUNDED EXTERNAL TABLE lines STORED AS TEXT
  LOCATION 'examples/data/access_log'
  OPTIONS ('maxFilesPerTrigger' 1);

CREATE VIEW parsed AS
SELECT to_timestamp(line[1], '%d/%b/%Y:%H:%M:%S %z') AS time, line[2] AS path, CAST(line[3] AS INT) AS status
FROM (SELECT regexp_match(value, '\[([^\]]+)\] "\S+ (\S+) [^"]*" (\d{3}) ') AS line FROM lines);

CREATE EXTERNAL TABLE page_views STORED AS POSTGRES
  LOCATION 'postgresql://localhost/shop'
  OPTIONS ('table' 'page_views', 'createTable' 'true');

CREATE STREAMING QUERY page_views
  OUTPUT MODE UPDATE
  TRIGGER AVAILABLE NOW
  CHECKPOINT LOCATION 'checkpoint/page_views'
AS INSERT INTO page_views
SELECT path, date_trunc('hour', time) AS hour, count(*) AS views, count(*) FILTER (WHERE status >= 400) AS errors
FROM parsed
WHERE path IS NOT NULL
GROUP BY path, date_trunc('hour', time);
