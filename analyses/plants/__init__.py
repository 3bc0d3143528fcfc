"""Planted anomalies of known place and strength: what an audit can see, and what it cannot."""
