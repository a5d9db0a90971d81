-- Nexmark, query 18: the last bid of each bidder for each auction.
--
--     tidemill run sql/nexmark/q18.sql
--
-- A batch shows the bidders and auctions for which it had a later bid.

CREATE UNBOUNDED EXTERNAL TABLE bid (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds')
  STORED AS NEXMARK OPTIONS ('type' 'bid', 'events' 100000, 'eventsPerSecond' 1000, 'maxEventsPerTrigger' 20000);

CREATE EXTERNAL TABLE q18 STORED AS CONSOLE;

CREATE STREAMING QUERY q18
  OUTPUT MODE UPDATE
  TRIGGER AVAILABLE NOW
  CHECKPOINT LOCATION 'checkpoint/nexmark/q18'
AS INSERT INTO q18
SELECT auction, bidder, price, channel, url, date_time, extra, place
FROM (SELECT *, row_number() OVER (PARTITION BY bidder, auction ORDER BY date_time DESC, price DESC) AS place FROM bid)
WHERE place <= 1;
