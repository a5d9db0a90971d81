-- Nexmark, query 11: how many bids each bidder makes before a pause of ten seconds.
--
--     tidemill run sql/nexmark/q11.sql

CREATE UNBOUNDED EXTERNAL TABLE bid (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds')
  STORED AS NEXMARK OPTIONS ('type' 'bid', 'events' 100000, 'eventsPerSecond' 1000, 'maxEventsPerTrigger' 20000);

CREATE EXTERNAL TABLE q11 STORED AS PARQUET LOCATION 'out/nexmark/q11/';

CREATE STREAMING QUERY q11
  TRIGGER AVAILABLE NOW
  CHECKPOINT LOCATION 'checkpoint/nexmark/q11'
  OPTIONS ('flushOnEnd' 'true')
AS INSERT INTO q11
SELECT bidder, count(*) AS bids, session_window(date_time, '10 seconds') AS session
FROM bid
GROUP BY bidder, session_window(date_time, '10 seconds');
