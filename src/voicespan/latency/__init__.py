"""`voicespan latency-test`: calls an agent many times, and says how long its callers wait."""
