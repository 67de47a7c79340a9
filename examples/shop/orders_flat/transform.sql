SELECT {{ row.id }}            AS order_id,
       customers.name          AS customer,
       countries.name          AS country,
       {{ row.cents }} / 100.0 AS total
FROM customers, countries
WHERE customers.id = {{ row.customer_id }}
  AND countries.code = {{ row.country }}
