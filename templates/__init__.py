"""What is said: one folder a mail; read as files, published to Postgres by hash."""
