"""What will a run need and cost on a machine that is not here? Its real step, compiled for that machine, and read."""
