-- Nexmark, query 10: all bids, in directories by day and minute.
--
--     tidemill run sql/nexmark/q10.sql

CREATE UNBOUNDED EXTERNAL TABLE bid (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds')
  STORED AS NEXMARK OPTIONS ('type' 'bid', 'events' 100000, 'eventsPerSecond' 1000, 'maxEventsPerTrigger' 20000);

CREATE EXTERNAL TABLE q10 STORED AS PARQUET PARTITIONED BY (day, minute) LOCATION 'out/nexmark/q10/';

CREATE STREAMING QUERY q10
  TRIGGER AVAILABLE NOW
  CHECKPOINT LOCATION 'checkpoint/nexmark/q10'
AS INSERT INTO q10
SELECT auction, bidder, price, date_time, extra,
       to_char(date_time, '%Y-%m-%d') AS day, to_char(date_time, '%H:%M') AS minute
FROM bid;
