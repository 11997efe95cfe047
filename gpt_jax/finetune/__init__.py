"""Fine-tuning: which parameters are trained, LoRA adapters, and heads for tasks."""
