"""`voicespan doctor`: whether a service started in this environment is seen, from its start to the dashboards."""
