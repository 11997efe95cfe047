"""The world's weights, in and out: other programs' folders become runs, and runs become such folders."""
