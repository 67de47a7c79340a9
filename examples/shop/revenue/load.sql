INSERT INTO revenue AS r (country, orders, cents)
SELECT country, sum(orders), sum(cents)
FROM {{ rows }}
GROUP BY country
ON CONFLICT (country) DO UPDATE
SET orders = r.orders + excluded.orders,
    cents = r.cents + excluded.cents
