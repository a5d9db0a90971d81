-- Nexmark, query 21: bids with the numbers of their channels.
--
--     tidemill run sql/nexmark/q21.sql

CREATE UNBOUNDED EXTERNAL TABLE bid (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds')
  STORED AS NEXMARK OPTIONS ('type' 'bid', 'events' 100000, 'eventsPerSecond' 1000, 'maxEventsPerTrigger' 20000);

CREATE EXTERNAL TABLE q21 STORED AS PARQUET LOCATION 'out/nexmark/q21/';

CREATE STREAMING QUERY q21
  TRIGGER AVAILABLE NOW
  CHECKPOINT LOCATION 'checkpoint/nexmark/q21'
AS INSERT INTO q21
SELECT auction, bidder, price, channel, channel_id
FROM (SELECT *,
             CASE lower(channel)
                 WHEN 'apple' THEN '0' WHEN 'google' THEN '1' WHEN 'facebook' THEN '2' WHEN 'baidu' THEN '3'
                 ELSE regexp_match(url, '(&|^)channel_id=([^&]*)')[2] END AS channel_id
      FROM bid)
WHERE channel_id IS NOT NULL;
