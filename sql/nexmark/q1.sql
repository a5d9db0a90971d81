-- Nexmark, query 1: bids in euros.
--
--     tidemill run sql/nexmark/q1.sql

CREATE UNBOUNDED EXTERNAL TABLE bid (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds')
  STORED AS NEXMARK OPTIONS ('type' 'bid', 'events' 100000, 'eventsPerSecond' 1000, 'maxEventsPerTrigger' 20000);

CREATE EXTERNAL TABLE q1 STORED AS PARQUET LOCATION 'out/nexmark/q1/';

CREATE STREAMING QUERY q1
  TRIGGER AVAILABLE NOW
  CHECKPOINT LOCATION 'checkpoint/nexmark/q1'
AS INSERT INTO q1
SELECT auction, bidder, 0.908::DECIMAL(4, 3) * price AS price, date_time, extra FROM bid;
