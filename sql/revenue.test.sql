-- What sql/revenue.sql gives, batch by batch. Nothing real is read or written:
--
--     tidemill test sql/revenue.test.sql

--- job revenue.sql

--- input invoices
InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country
1,A,,2,2011-01-06 09:10:00,1.50,,France
2,A,,1,2011-01-06 09:50:00,1.50,,Spain
3,A,,1,2011-01-06 10:20:00,9.99,,France
--- output revenue
-- The hour is not over while an invoice of it may still come.

--- input invoices
InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country
4,A,,3,2011-01-06 09:55:00,1.00,,France
5,A,,1,2011-01-06 11:00:00,0.50,,France
--- output revenue
hour,country,revenue
2011-01-06T09:00:00,France,6.000
2011-01-06T09:00:00,Spain,1.500

--- input invoices
InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country
6,A,,100,2011-01-06 09:59:00,1.00,,France
--- output revenue
-- It came too late: the hour has been given.
