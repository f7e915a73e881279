"""What the Dagster instance is made of: storage, connection pool, Celery worker, start-up clean-up."""
