"""The parts of the Dagster instance: configuration, storage, connection pool, Celery worker, start-up clean-up."""
