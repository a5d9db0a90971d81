-- Incremental ETL over a shop's invoices, from CSV to Parquet:
--
--     tidemill run sql/quickstart.sql
--
-- Run it again: there is nothing to do. Put another day into examples/data/retail: only that day is read.

-- Rows are appended to this table whenever a file is put into the directory.
CREATE UNBOUNDED EXTERNAL TABLE invoices (
    InvoiceNo VARCHAR, StockCode VARCHAR, Description VARCHAR, Quantity INT,
    InvoiceDate TIMESTAMP, UnitPrice DECIMAL(10, 3), CustomerID DOUBLE, Country VARCHAR
) STORED AS CSV
  LOCATION 'examples/data/retail'
  OPTIONS ('header' 'true', 'maxFilesPerTrigger' '1');

-- Where the results go. Its columns come from the query; each day becomes a directory.
CREATE EXTERNAL TABLE sales STORED AS PARQUET
  PARTITIONED BY (day)
  LOCATION 'out/quickstart/sales';

CREATE STREAMING QUERY quickstart
  TRIGGER AVAILABLE NOW                           -- everything that is there now, then end
  CHECKPOINT LOCATION 'checkpoint/quickstart'     -- what has been done, so that it is done once
AS INSERT INTO sales
SELECT
    InvoiceNo AS invoice,
    InvoiceDate AS invoiced_at,
    CAST(CustomerID AS BIGINT) AS customer,
    Country AS country,
    StockCode AS product,
    trim(Description) AS description,
    Quantity AS quantity,
    UnitPrice AS unit_price,
    Quantity * UnitPrice AS line_total,
    starts_with(InvoiceNo, 'C') AS cancelled,
    CAST(InvoiceDate AS DATE) AS day
FROM invoices
WHERE Description IS NOT NULL;
