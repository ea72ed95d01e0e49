"""Terminal output: views turn the events of the core loops into dashboards and log lines."""
