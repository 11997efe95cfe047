"""Import and export of weights in the formats of Hugging Face and PEFT."""
