"""The services of one machine: PostgreSQL, Kafka, Airflow's components and ingestd; started, watched and stopped here."""
