-- Counting words as they are typed. Start a server first, and type into it:
--
--     nc -lk 9999
--     tidemill run sql/word_count.sql
--
-- After every batch, the console shows all words seen so far, the most frequent first.

CREATE UNBOUNDED EXTERNAL TABLE lines STORED AS SOCKET OPTIONS ('host' 'localhost', 'port' '9999');

CREATE EXTERNAL TABLE counts STORED AS CONSOLE;

CREATE STREAMING QUERY word_count
  OUTPUT MODE COMPLETE
AS INSERT INTO counts
SELECT word, count(*) AS times
FROM (SELECT unnest(string_to_array(value, ' ', '')) AS word FROM lines)
WHERE word IS NOT NULL
GROUP BY word
ORDER BY times DESC, word;
