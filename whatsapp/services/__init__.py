"""Every change of state, and every transaction. Sync; one module per noun."""
