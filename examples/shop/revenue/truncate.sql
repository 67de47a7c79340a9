TRUNCATE revenue
