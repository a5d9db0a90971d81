-- Nexmark, query 23: bids by persons who sell, with what they sell.
--
--     tidemill run sql/nexmark/q23.sql

CREATE UNBOUNDED EXTERNAL TABLE bid (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds')
  STORED AS NEXMARK OPTIONS ('type' 'bid', 'events' 100000, 'eventsPerSecond' 1000, 'maxEventsPerTrigger' 20000);

CREATE UNBOUNDED EXTERNAL TABLE person (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds')
  STORED AS NEXMARK OPTIONS ('type' 'person', 'events' 100000, 'eventsPerSecond' 1000, 'maxEventsPerTrigger' 20000);

CREATE UNBOUNDED EXTERNAL TABLE auction (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds')
  STORED AS NEXMARK OPTIONS ('type' 'auction', 'events' 100000, 'eventsPerSecond' 1000, 'maxEventsPerTrigger' 20000);

CREATE EXTERNAL TABLE q23 STORED AS PARQUET LOCATION 'out/nexmark/q23/';

CREATE STREAMING QUERY q23
  TRIGGER AVAILABLE NOW
  CHECKPOINT LOCATION 'checkpoint/nexmark/q23'
AS INSERT INTO q23
SELECT b.bidder, b.price, b.channel, b.url, p.id AS person, p.name, p.email_address, p.city, p.state,
       a.item_name, a.initial_bid, a.reserve, a.date_time AS opened, a.expires, a.seller, a.category
FROM bid b JOIN person p ON p.id = b.bidder JOIN auction a ON p.id = a.seller;
