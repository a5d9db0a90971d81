-- Nexmark, query 0: all bids as they come.
--
--     tidemill run sql/nexmark/q0.sql

CREATE UNBOUNDED EXTERNAL TABLE bid (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds')
  STORED AS NEXMARK OPTIONS ('type' 'bid', 'events' 100000, 'eventsPerSecond' 1000, 'maxEventsPerTrigger' 20000);

CREATE EXTERNAL TABLE q0 STORED AS PARQUET LOCATION 'out/nexmark/q0/';

CREATE STREAMING QUERY q0
  TRIGGER AVAILABLE NOW
  CHECKPOINT LOCATION 'checkpoint/nexmark/q0'
AS INSERT INTO q0
SELECT auction, bidder, price, date_time, extra FROM bid;
