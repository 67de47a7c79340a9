-- To take a row away its key is enough; no need to join anything.
SELECT {{ old.id }} AS order_id
