SELECT {{ row.id }}        AS id,
       customers.country   AS country,
       {{ row.total }}     AS total,
       {{ row.placed_at }} AS placed_at
FROM customers
WHERE customers.id = {{ row.customer_id }}
