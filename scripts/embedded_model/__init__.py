"""Parts of `scripts/build_embedded_model`: text, tokenizer, rows, model, optimizer, training, measuring, card."""
