"""The turn model, told as calls: what happened when, and which trace that must give, computed by hand."""
