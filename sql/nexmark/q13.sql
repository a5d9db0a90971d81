-- Nexmark, query 13: bids with what a table says of their auctions.
--
--     tidemill run sql/nexmark/q13.sql

CREATE UNBOUNDED EXTERNAL TABLE bid (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds')
  STORED AS NEXMARK OPTIONS ('type' 'bid', 'events' 100000, 'eventsPerSecond' 1000, 'maxEventsPerTrigger' 20000);

CREATE TABLE side_input AS SELECT value AS key, concat('value ', value) AS value FROM generate_series(0, 9999);

CREATE EXTERNAL TABLE q13 STORED AS PARQUET LOCATION 'out/nexmark/q13/';

CREATE STREAMING QUERY q13
  TRIGGER AVAILABLE NOW
  CHECKPOINT LOCATION 'checkpoint/nexmark/q13'
AS INSERT INTO q13
SELECT b.auction, b.bidder, b.price, b.date_time, s.value
FROM bid b JOIN side_input s ON b.auction % 10000 = s.key;
