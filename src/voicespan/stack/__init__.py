"""The back ends on one machine: what is generated for them, and how they are started and stopped."""
