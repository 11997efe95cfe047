"""Where tensors live on a mesh of devices. Knows dims and axes, not what a GPT is."""
