-- Nexmark, query 12: how many bids of each bidder are processed in every ten seconds.
--
--     tidemill run sql/nexmark/q12.sql

CREATE UNBOUNDED EXTERNAL TABLE bid
  STORED AS NEXMARK OPTIONS ('type' 'bid', 'events' 100000, 'eventsPerSecond' 1000, 'maxEventsPerTrigger' 20000);

CREATE EXTERNAL TABLE q12 STORED AS PARQUET LOCATION 'out/nexmark/q12/';

CREATE STREAMING QUERY q12
  TRIGGER AVAILABLE NOW
  CHECKPOINT LOCATION 'checkpoint/nexmark/q12'
  OPTIONS ('flushOnEnd' 'true')
AS INSERT INTO q12
SELECT bidder, count(*) AS bids, window_start, window_end
FROM TUMBLE(TABLE (SELECT * FROM bid WATERMARK now() AS processed DELAY OF INTERVAL '0' SECOND),
            DESCRIPTOR(processed), INTERVAL '10' SECOND)
GROUP BY bidder, window_start, window_end;
