"""Loading what is trained: tokenizer, model, quantization, adapter, precision. Knows no task and no trainer."""
