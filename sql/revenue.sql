-- Revenue per hour and country, from a CSV file of invoices per day to Parquet:
--
--     tidemill run sql/revenue.sql
--
-- Every hour is written once, when it is over by the watermark, an hour after the newest invoice.
-- Run it again: there is nothing to do. What the hours still open amount to is in the checkpoint.

CREATE UNBOUNDED EXTERNAL TABLE invoices (
    InvoiceNo VARCHAR, StockCode VARCHAR, Description VARCHAR, Quantity INT,
    InvoiceDate TIMESTAMP, UnitPrice DECIMAL(10, 3), CustomerID DOUBLE, Country VARCHAR,
    WATERMARK FOR InvoiceDate AS InvoiceDate - INTERVAL '1' HOUR
) STORED AS CSV
  LOCATION 'examples/data/retail'
  OPTIONS ('header' 'true', 'maxFilesPerTrigger' '1');

CREATE EXTERNAL TABLE revenue STORED AS PARQUET LOCATION 'out/revenue_sql/';

CREATE STREAMING QUERY revenue
  TRIGGER AVAILABLE NOW
  CHECKPOINT LOCATION 'checkpoint/revenue_sql'
AS INSERT INTO revenue
SELECT date_trunc('hour', InvoiceDate) AS hour, Country AS country, sum(Quantity * UnitPrice) AS revenue
FROM invoices
GROUP BY hour, country;
