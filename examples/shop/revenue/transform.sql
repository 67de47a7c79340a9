SELECT {{ new.country }} AS country, 1 AS orders, {{ new.cents }} AS cents
WHERE {{ operation }} <> 'delete'
UNION ALL
SELECT {{ old.country }}, -1, -{{ old.cents }}
WHERE {{ operation }} <> 'insert'
