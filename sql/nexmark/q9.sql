-- Nexmark, query 9: the bid that wins each auction.
--
--     tidemill run sql/nexmark/q9.sql
--
-- A batch shows the auctions for which it had a better bid.

CREATE UNBOUNDED EXTERNAL TABLE auction (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds')
  STORED AS NEXMARK OPTIONS ('type' 'auction', 'events' 100000, 'eventsPerSecond' 1000, 'maxEventsPerTrigger' 20000);

CREATE UNBOUNDED EXTERNAL TABLE bid (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds')
  STORED AS NEXMARK OPTIONS ('type' 'bid', 'events' 100000, 'eventsPerSecond' 1000, 'maxEventsPerTrigger' 20000);

CREATE EXTERNAL TABLE q9 STORED AS CONSOLE;

CREATE STREAMING QUERY q9
  OUTPUT MODE UPDATE
  TRIGGER AVAILABLE NOW
  CHECKPOINT LOCATION 'checkpoint/nexmark/q9'
AS INSERT INTO q9
SELECT id, item_name, description, initial_bid, reserve, opened, expires, seller, category,
       bidder, price, date_time, place
FROM (SELECT a.id, a.item_name, a.description, a.initial_bid, a.reserve, a.date_time AS opened, a.expires, a.seller,
             a.category, b.bidder, b.price, b.date_time,
             row_number() OVER (PARTITION BY a.id ORDER BY b.price DESC, b.date_time, b.bidder) AS place
      FROM auction a JOIN bid b ON a.id = b.auction AND b.date_time BETWEEN a.date_time AND a.expires)
WHERE place <= 1;
