-- Hits per status, kept up to date in a compacted topic and on the screen.
CREATE UNBOUNDED EXTERNAL TABLE access (line VARCHAR)
STORED AS KAFKA OPTIONS (
    'kafka.bootstrap.servers' '127.0.0.1:19292', 'subscribe' 'access-log', 'startingOffsets' 'earliest',
    'value.format' 'text', 'maxOffsetsPerTrigger' 500);

CREATE VIEW requests AS
SELECT CAST(regexp_match(line, '^(\S+) \S+ \S+ \[([^\]]+)\] "([^"]*)" (\d{3}) ')[4] AS INT) AS status FROM access;

CREATE EXTERNAL TABLE hits
STORED AS KAFKA OPTIONS (
    'kafka.bootstrap.servers' '127.0.0.1:19292', 'topic' 'hits-per-status', 'key.format' 'text', 'value.format' 'json');

CREATE EXTERNAL TABLE screen STORED AS CONSOLE;

CREATE STREAMING QUERY keep OUTPUT MODE UPDATE CHECKPOINT LOCATION 'checkpoint/hits'
AS INSERT INTO hits SELECT CAST(status AS VARCHAR) AS status, count(*) AS hits FROM requests GROUP BY CAST(status AS VARCHAR);

CREATE STREAMING QUERY show OUTPUT MODE COMPLETE
AS INSERT INTO screen SELECT status, count(*) AS hits FROM requests GROUP BY status ORDER BY hits DESC;
