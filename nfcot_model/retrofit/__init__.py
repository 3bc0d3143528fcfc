"""A density for thoughts that have none: a conditional flow fitted on recorded runs."""
