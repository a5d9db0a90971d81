-- Nexmark, query 14: dear bids with the time of day, and a letter counted.
--
--     tidemill run sql/nexmark/q14.sql

CREATE UNBOUNDED EXTERNAL TABLE bid (WATERMARK FOR date_time AS date_time - INTERVAL '4 seconds')
  STORED AS NEXMARK OPTIONS ('type' 'bid', 'events' 100000, 'eventsPerSecond' 1000, 'maxEventsPerTrigger' 20000);

CREATE EXTERNAL TABLE q14 STORED AS PARQUET LOCATION 'out/nexmark/q14/';

CREATE STREAMING QUERY q14
  TRIGGER AVAILABLE NOW
  CHECKPOINT LOCATION 'checkpoint/nexmark/q14'
AS INSERT INTO q14
SELECT auction, bidder, 0.908::DECIMAL(4, 3) * price AS price,
       CASE WHEN date_part('hour', date_time) BETWEEN 8 AND 18 THEN 'dayTime'
            WHEN date_part('hour', date_time) <= 6 OR date_part('hour', date_time) >= 20 THEN 'nightTime'
            ELSE 'otherTime' END AS time_of_day,
       date_time, extra, length(extra) - length(replace(extra, 'c', '')) AS c_counts
FROM bid
WHERE 0.908::DECIMAL(4, 3) * price > 1000000 AND 0.908::DECIMAL(4, 3) * price < 50000000;
