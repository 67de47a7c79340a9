SELECT {{ old.id }} AS order_id
