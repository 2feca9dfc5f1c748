"""`voicespan load`: simulated calls, and what they cost and lose."""
