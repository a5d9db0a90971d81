-- Nexmark, query 2: bids for some auctions.
--
--     tidemill run sql/nexmark/q2.sql

CREATE UNBOUNDED EXTERNAL TABLE bid (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds')
  STORED AS NEXMARK OPTIONS ('type' 'bid', 'events' 100000, 'eventsPerSecond' 1000, 'maxEventsPerTrigger' 20000);

CREATE EXTERNAL TABLE q2 STORED AS PARQUET LOCATION 'out/nexmark/q2/';

CREATE STREAMING QUERY q2
  TRIGGER AVAILABLE NOW
  CHECKPOINT LOCATION 'checkpoint/nexmark/q2'
AS INSERT INTO q2
SELECT auction, price FROM bid WHERE auction % 123 = 0;
