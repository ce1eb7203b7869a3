"""Loading what is trained: tokenizer, model, quantization, adapter, precision. Knows no task by name and no trainer."""
