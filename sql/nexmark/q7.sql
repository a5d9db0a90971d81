-- Nexmark, query 7: the highest bids of every ten seconds.
--
--     tidemill run sql/nexmark/q7.sql

CREATE UNBOUNDED EXTERNAL TABLE bid (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds')
  STORED AS NEXMARK OPTIONS ('type' 'bid', 'events' 100000, 'eventsPerSecond' 1000, 'maxEventsPerTrigger' 20000);

CREATE EXTERNAL TABLE q7 STORED AS PARQUET LOCATION 'out/nexmark/q7/';

CREATE STREAMING QUERY q7
  TRIGGER AVAILABLE NOW
  CHECKPOINT LOCATION 'checkpoint/nexmark/q7'
  OPTIONS ('flushOnEnd' 'true')
AS INSERT INTO q7
SELECT b.auction, b.price, b.bidder, b.date_time, b.extra
FROM bid b
JOIN (SELECT max(price) AS most, window_start, window_end
      FROM TUMBLE(TABLE bid, DESCRIPTOR(date_time), INTERVAL '10' SECOND)
      GROUP BY window_start, window_end) greatest
  ON b.price = greatest.most AND b.date_time BETWEEN greatest.window_start AND greatest.window_end;
