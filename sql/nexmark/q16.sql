-- Nexmark, query 16: the same of each channel.
--
--     tidemill run sql/nexmark/q16.sql

CREATE UNBOUNDED EXTERNAL TABLE bid (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds')
  STORED AS NEXMARK OPTIONS ('type' 'bid', 'events' 100000, 'eventsPerSecond' 1000, 'maxEventsPerTrigger' 20000);

CREATE EXTERNAL TABLE q16 STORED AS PARQUET LOCATION 'out/nexmark/q16/';

CREATE STREAMING QUERY q16
  TRIGGER AVAILABLE NOW
  CHECKPOINT LOCATION 'checkpoint/nexmark/q16'
  OPTIONS ('flushOnEnd' 'true')
AS INSERT INTO q16
SELECT channel, CAST(date_time AS DATE) AS day, max(to_char(date_time, '%H:%M')) AS minute,
       count(*) AS total_bids,
       count(*) FILTER (WHERE price < 10000) AS rank1_bids,
       count(*) FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_bids,
       count(*) FILTER (WHERE price >= 1000000) AS rank3_bids,
       count(DISTINCT bidder) AS total_bidders,
       count(DISTINCT bidder) FILTER (WHERE price < 10000) AS rank1_bidders,
       count(DISTINCT bidder) FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_bidders,
       count(DISTINCT bidder) FILTER (WHERE price >= 1000000) AS rank3_bidders,
       count(DISTINCT auction) AS total_auctions,
       count(DISTINCT auction) FILTER (WHERE price < 10000) AS rank1_auctions,
       count(DISTINCT auction) FILTER (WHERE price >= 10000 AND price < 1000000) AS rank2_auctions,
       count(DISTINCT auction) FILTER (WHERE price >= 1000000) AS rank3_auctions
FROM bid
GROUP BY channel, CAST(date_time AS DATE);
