-- Nexmark, query 8: persons who have opened an auction within the ten seconds in which they registered.
--
--     tidemill run sql/nexmark/q8.sql

CREATE UNBOUNDED EXTERNAL TABLE person (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds')
  STORED AS NEXMARK OPTIONS ('type' 'person', 'events' 100000, 'eventsPerSecond' 1000, 'maxEventsPerTrigger' 20000);

CREATE UNBOUNDED EXTERNAL TABLE auction (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds')
  STORED AS NEXMARK OPTIONS ('type' 'auction', 'events' 100000, 'eventsPerSecond' 1000, 'maxEventsPerTrigger' 20000);

CREATE EXTERNAL TABLE q8 STORED AS PARQUET LOCATION 'out/nexmark/q8/';

CREATE STREAMING QUERY q8
  TRIGGER AVAILABLE NOW
  CHECKPOINT LOCATION 'checkpoint/nexmark/q8'
  OPTIONS ('flushOnEnd' 'true')
AS INSERT INTO q8
SELECT p.id, p.name, p.window_start
FROM (SELECT id, name, window_start, window_end
      FROM TUMBLE(TABLE person, DESCRIPTOR(date_time), INTERVAL '10' SECOND)
      GROUP BY id, name, window_start, window_end) p
JOIN (SELECT seller, window_start, window_end
      FROM TUMBLE(TABLE auction, DESCRIPTOR(date_time), INTERVAL '10' SECOND)
      GROUP BY seller, window_start, window_end) a
  ON p.id = a.seller AND p.window_start = a.window_start AND p.window_end = a.window_end;
