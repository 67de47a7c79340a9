SELECT {{ row.id }}                   AS order_id,
       line.number                    AS line_no,
       line.item ->> 'sku'            AS sku,
       (line.item ->> 'pieces')::int  AS pieces
FROM jsonb_array_elements({{ row.lines }}) WITH ORDINALITY AS line(item, number)
