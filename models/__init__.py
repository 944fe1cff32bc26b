"""What is remembered: the tables, the session, and the migrations."""
