-- To take a row away its key is enough.
SELECT {{ old.id }} AS id
