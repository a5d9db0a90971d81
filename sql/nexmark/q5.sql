-- Nexmark, query 5: the auctions with the most bids in the last ten seconds, every two seconds.
--
--     tidemill run sql/nexmark/q5.sql

CREATE UNBOUNDED EXTERNAL TABLE bid (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds')
  STORED AS NEXMARK OPTIONS ('type' 'bid', 'events' 100000, 'eventsPerSecond' 1000, 'maxEventsPerTrigger' 20000);

CREATE EXTERNAL TABLE q5 STORED AS PARQUET LOCATION 'out/nexmark/q5/';

CREATE STREAMING QUERY q5
  TRIGGER AVAILABLE NOW
  CHECKPOINT LOCATION 'checkpoint/nexmark/q5'
  OPTIONS ('flushOnEnd' 'true')
AS INSERT INTO q5
SELECT counted.auction, counted.num, counted.window_start, counted.window_end
FROM (SELECT auction, count(*) AS num, window_start, window_end
      FROM HOP(TABLE bid, DESCRIPTOR(date_time), INTERVAL '2' SECOND, INTERVAL '10' SECOND)
      GROUP BY auction, window_start, window_end) counted
JOIN (SELECT max(num) AS most, window_start, window_end
      FROM (SELECT auction, count(*) AS num, window_start, window_end
      FROM HOP(TABLE bid, DESCRIPTOR(date_time), INTERVAL '2' SECOND, INTERVAL '10' SECOND)
      GROUP BY auction, window_start, window_end)
      GROUP BY window_start, window_end) greatest
  ON counted.window_start = greatest.window_start AND counted.window_end = greatest.window_end
 AND counted.num >= greatest.most;
