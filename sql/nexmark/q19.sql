-- Nexmark, query 19: the ten highest bids for each auction.
--
--     tidemill run sql/nexmark/q19.sql
--
-- A batch shows what has changed: a place of an auction replaces the one before.

CREATE UNBOUNDED EXTERNAL TABLE bid (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds')
  STORED AS NEXMARK OPTIONS ('type' 'bid', 'events' 100000, 'eventsPerSecond' 1000, 'maxEventsPerTrigger' 20000);

CREATE EXTERNAL TABLE q19 STORED AS CONSOLE;

CREATE STREAMING QUERY q19
  OUTPUT MODE UPDATE
  TRIGGER AVAILABLE NOW
  CHECKPOINT LOCATION 'checkpoint/nexmark/q19'
AS INSERT INTO q19
SELECT auction, bidder, price, channel, date_time, place
FROM (SELECT *, row_number() OVER (PARTITION BY auction ORDER BY price DESC, date_time, bidder) AS place FROM bid)
WHERE place <= 10;
