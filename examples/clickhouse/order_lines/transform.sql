SELECT {{ row.id }}                     AS order_id,
       line.number                      AS line_no,
       coalesce(line.item ->> 'sku', '') AS sku,
       coalesce((line.item ->> 'pieces')::int, 0) AS pieces
FROM jsonb_array_elements({{ row.lines }}) WITH ORDINALITY AS line(item, number)
