-- Hits per status and ten minutes, of a web server's logs:
--
--     tidemill run sql/access_log.sql
--
-- Ten minutes are counted once they are over by the watermark, five minutes after the newest line.
-- Lines that come later than that are dropped; `--progress json` shows how many there were.

CREATE UNBOUNDED EXTERNAL TABLE lines STORED AS TEXT
  LOCATION 'examples/data/access_log'
  OPTIONS ('maxFilesPerTrigger' 1);

CREATE VIEW parsed AS
SELECT to_timestamp(line[2], '%d/%b/%Y:%H:%M:%S %z') AS time, CAST(line[4] AS INT) AS status
FROM (SELECT regexp_match(value, '^(\S+) \S+ \S+ \[([^\]]+)\] "([^"]*)" (\d{3}) ') AS line FROM lines);

CREATE EXTERNAL TABLE hits STORED AS PARQUET LOCATION 'out/access_log/';

CREATE STREAMING QUERY access_log
  TRIGGER AVAILABLE NOW
  CHECKPOINT LOCATION 'checkpoint/access_log'
AS INSERT INTO hits
SELECT window.start AS window_start, status, count(*) AS hits
FROM STREAM parsed WATERMARK time DELAY OF INTERVAL '5' MINUTE
GROUP BY window(time, '10 minutes'), status;
