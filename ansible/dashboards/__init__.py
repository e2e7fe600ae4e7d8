"""Grafana dashboards as code; ``python -m dashboards`` writes their JSON into the monitoring role."""
