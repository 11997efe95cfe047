"""Memory, time and cost of a run on a machine that is not attached, from its compiled step."""
