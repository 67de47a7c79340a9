SELECT {{ row.id }} AS id, {{ row.name }} AS name, {{ row.changed_at }} AS changed_at
